"""More than one process: the same steps over FSDP2 (``fully_shard``), under ``torchrun``.

    torchrun --nproc-per-node 2 -m whimbrel.train.distributed RECIPE.toml FOLDER

Every process takes its share of a batch's pieces; PyTorch gathers parameters, averages gradients and keeps a share of
the optimizer's state in each. All else is ``train.loop``'s: the first process writes its log and its checkpoints, which
are those of one process, so that either goes on with the other's; all of them must see the folder. LoRA is for one
process. With ``device = "cuda"`` each process has a GPU and they talk by NCCL, otherwise by gloo.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from whimbrel.errors import InvalidParameter, UsageError
from whimbrel.models.config import ModelConfig
from whimbrel.train import loop
from whimbrel.train.batches import Batch, Shards
from whimbrel.train.checkpoint import Progress
from whimbrel.train.device import move, training_device
from whimbrel.train.mixed import open_batches
from whimbrel.train.mtp import mtp_parameters
from whimbrel.train.parameters import Parameters
from whimbrel.train.parametrization import check_scalings, initial_parameters
from whimbrel.train.pretrain import Student, autocast, check_vocabulary, evaluate_loss, read_curve, run_of
from whimbrel.train.processes import Losses, OneProcess, backward
from whimbrel.train.recipe import Recipe
from whimbrel.train.recipe_file import read_recipe


class Network(nn.Module):
    """The parameter dict as a module, which is what FSDP2 shards; its forward pass is ``Student``'s losses."""

    def __init__(self, config: ModelConfig, parameters: Parameters, recipe: Recipe) -> None:
        super().__init__()
        self.names = {name: name.replace(".", "/") for name in parameters}
        for name, parameter in parameters.items():
            self.register_parameter(self.names[name], parameter)
        self.student, self.precision = Student(config, parameters, recipe), recipe.precision

    def tensors(self) -> Parameters:
        """Under their own names: shares of them outside of a forward pass, whole ones within."""
        return {name: getattr(self, attribute) for name, attribute in self.names.items()}

    def forward(self, batch: Batch, learned: int) -> Losses:
        """What some pieces add to means over so many learned tokens."""
        self.student.parameters = self.tensors()
        with autocast(self.precision, self.student.device.type):
            return self.student.part(batch, learned)


class Sharded(OneProcess):
    """Shares of parameters and optimizer state; every method is called by all processes together."""

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.writes = self.rank == 0

    def backward(self, parts: Losses | Iterable[Losses]) -> dict[str, float]:
        """The sums over all processes, the same numbers in each: from them follows whether a batch is skipped."""
        names, values = backward(parts, self.world)  # FSDP2 averages over processes, and the loss is a sum over them
        together = torch.stack([value.float() for value in values])
        dist.all_reduce(together)
        dist.broadcast(together, 0)  # sums in another order are other numbers
        sums: dict[str, float] = {}
        for name, value in zip(names, together.tolist(), strict=True):
            sums[name] = sums.get(name, 0.0) + value
        return sums

    def clip(self, parameters: Parameters, limit: float) -> float:
        """The norm of the whole gradient, the same number in each process."""
        norm = _whole(nn.utils.clip_grad_norm_(parameters.values(), limit))
        dist.broadcast(norm, 0)
        return float(norm.item())

    def state(self, parameters: Parameters, optimizer: torch.optim.Optimizer) -> Progress:
        """Whole tensors in the memory of the first process, nothing in the others."""
        shares = optimizer.state_dict()
        states = {
            index: {key: self._gathered(value) for key, value in state.items()}
            for index, state in shares["state"].items()
        }
        whole = {name: self._gathered(tensor.detach()) for name, tensor in parameters.items()}
        return Progress(step=0, parameters=whole, optimizer={**shares, "state": states})

    @torch.no_grad()
    def restore(self, parameters: Parameters, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Each process keeps its share. Raises ValueError where the optimizer has other groups."""
        for name, tensor in parameters.items():
            tensor.copy_(_like(progress.parameters[name], tensor))
        owners = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        if set(progress.optimizer["state"]) - set(range(len(owners))):
            raise ValueError("it has more tensors")
        states = {
            index: {key: _like(value, owners[index]) if value.ndim else value for key, value in state.items()}
            for index, state in progress.optimizer["state"].items()
        }
        optimizer.load_state_dict({**progress.optimizer, "state": states})

    def _gathered(self, value: Any) -> Any:
        """One tensor at a time, so that a device never holds a second whole model."""
        if not isinstance(value, Tensor):
            return value
        whole = _whole(value)
        return whole.cpu() if self.writes else whole.new_empty(0)


def train_sharded(config: ModelConfig, recipe: Recipe, shards: Shards, folder: str | Path) -> int:
    """Train on all processes of the group that torchrun describes; goes on where a run was stopped. Returns the steps.

    Raises what ``train_model`` raises, and InvalidParameter where a batch has fewer pieces than there are processes.
    """
    check_scalings(config, recipe.optimizer)
    device = training_device(recipe.device)
    processes = Sharded()
    batches = open_batches(shards, recipe.batch, recipe.seed)
    check_vocabulary(config, batches)
    network = sharded_network(config, recipe, device, processes.world)
    assert isinstance(network, FSDPModule)  # what fully_shard makes of it

    def losses(step: int) -> Iterator[Losses]:
        batch = batches.batch(step)
        mine = share(batch, processes.rank, processes.world, recipe.batch.parts, step)
        for index, part in enumerate(mine):
            network.set_requires_gradient_sync(index + 1 == len(mine))
            yield network(part, max(1, batch.learned))

    shares = network.tensors()
    return loop.train(shares, losses, run_of(config, recipe, shares, batches, Path(folder)), processes=processes)


def sharded_network(config: ModelConfig, recipe: Recipe, device: torch.device, world: int) -> Network:
    """Fresh parameters, of which this process keeps its share; nobody holds the whole ones afterwards."""
    parameters = initial_parameters(config, recipe.optimizer, recipe.seed)
    if recipe.mtp:
        parameters |= mtp_parameters(config, parameters)
    move(parameters.values(), device)
    network = Network(config, parameters, recipe)
    fully_shard(network, mesh=init_device_mesh(device.type, (world,)))
    network.student.parameters = network.tensors()
    return network


def share(batch: Batch, rank: int, world: int, parts: int, step: int) -> list[Batch]:
    """A process's parts of a batch: equally many in each, since all gather parameters together; fewer than ``parts``
    where the pieces don't suffice. Raises InvalidParameter, in all processes, where they don't suffice for one each."""
    for count in range(parts, 0, -1):
        found = batch.split(world * count)
        if len(found) == world * count:
            return found[rank * count : (rank + 1) * count]
    raise InvalidParameter(
        f"step {step}: {len(batch.cu_seqlens) - 1} pieces can't be shared by {world} processes; give the batch more rows"
    )


def _whole(value: Tensor) -> Tensor:
    whole: Tensor = value.full_tensor() if isinstance(value, DTensor) else value
    return whole


def _like(whole: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor cut as another one is."""
    assert isinstance(tensor, DTensor)
    return distribute_tensor(whole.to(tensor.device), tensor.device_mesh, tensor.placements)


def main(recipe: str, folder: str) -> None:
    """One process of a group that torchrun started; pre-training of new models."""
    asked = read_recipe(recipe, "pretrain")
    if asked.config is None:
        raise UsageError(f"{recipe}: only new models are trained by several processes so far; give sizes in [model]")
    cuda = training_device(asked.recipe.device).type == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    try:
        steps = train_sharded(asked.config, asked.recipe, list(asked.shards), folder)
    finally:
        dist.destroy_process_group()
    if rank:
        return
    curve = read_curve(folder)
    print(f"{f'loss {curve[-1][1]:.4f} ' if curve else ''}after {steps} steps of {world} processes")
    if asked.held_out:
        sequence, device = asked.recipe.batch.sequence, asked.recipe.device
        print(f"held out {evaluate_loss(folder, list(asked.held_out), sequence=sequence, device=device):.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
