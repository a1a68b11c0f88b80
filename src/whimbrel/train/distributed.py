"""More than one process: the same steps over FSDP2 (``fully_shard``), under ``torchrun``.

    torchrun --nproc-per-node 2 -m whimbrel.train.distributed RECIPE.toml FOLDER

Every process takes its share of a batch's pieces; PyTorch gathers parameters, averages gradients and keeps a share of
the optimizer's state in each. The first process writes the log and, at the end, a whole checkpoint, which is the one of
``train_model``. A run that was stopped begins again: resuming is for one process so far, as are LoRA and spikes.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from whimbrel.errors import InvalidParameter, UsageError
from whimbrel.models.config import ModelConfig
from whimbrel.train import checkpoint
from whimbrel.train.batches import Batch, Shards
from whimbrel.train.mixed import open_batches
from whimbrel.train.parameters import Parameters
from whimbrel.train.parametrization import check_scalings, groups, initial_parameters
from whimbrel.train.pretrain import Student, as_plain
from whimbrel.train.recipe import Recipe
from whimbrel.train.recipe_file import read_recipe


class Network(nn.Module):
    """The parameter dict as a module, which is what FSDP2 shards; its forward pass is ``Student``'s loss."""

    def __init__(self, config: ModelConfig, parameters: Parameters, recipe: Recipe) -> None:
        super().__init__()
        self.names = {name: name.replace(".", "/") for name in parameters}
        for name, parameter in parameters.items():
            self.register_parameter(self.names[name], parameter)
        self.config, self.recipe = config, recipe

    def tensors(self) -> dict[str, nn.Parameter]:
        """Under their own names: shares of them outside of a forward pass, whole ones within."""
        return {name: getattr(self, attribute) for name, attribute in self.names.items()}

    def forward(self, batch: Batch, learned: int) -> Tensor:
        """The batch's share of a mean over so many learned tokens."""
        return Student(self.config, self.tensors(), self.recipe).part(batch, learned)["loss"]


def train_sharded(config: ModelConfig, recipe: Recipe, shards: Shards, folder: str | Path) -> list[float]:
    """Train on all processes of the group that torchrun describes; returns the loss of every step, the same in each.

    Raises InvalidParameter where a batch has fewer pieces than there are processes, or the recipe asks for what is not
    here: parts, mtp, start.
    """
    if recipe.batch.parts != 1 or recipe.mtp or recipe.start is not None:
        raise InvalidParameter("parts, mtp and start are for one process so far; take them out of the recipe")
    check_scalings(config, recipe.optimizer)
    rank, world = dist.get_rank(), dist.get_world_size()
    batches = open_batches(shards, recipe.batch, recipe.seed)
    network = Network(config, initial_parameters(config, recipe.optimizer, recipe.seed), recipe)
    fully_shard(network, mesh=init_device_mesh("cpu", (world,)))
    chosen = groups(config, recipe.optimizer, network.tensors())
    optimizer = torch.optim.AdamW(
        chosen, lr=recipe.schedule.peak, betas=recipe.optimizer.betas, eps=recipe.optimizer.eps
    )
    losses = []
    for step in range(recipe.schedule.total):
        for group in optimizer.param_groups:
            group["lr"] = recipe.schedule.rate(step) * group["rate_scale"]
        batch = batches.batch(step)
        shares = batch.split(world)
        if len(shares) < world:
            raise InvalidParameter(
                f"step {step}: {len(batch.cu_seqlens) - 1} pieces can't be shared by {world} processes; "
                "give the batch more rows"
            )
        loss = network(shares[rank], max(1, batch.learned))
        (loss * world).backward()  # FSDP2 averages over processes, and the loss is a sum over them
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(total.item())
    _save(network, config, recipe, batches.vocabulary, losses, Path(folder), rank)
    return losses


def _save(
    network: Network, config: ModelConfig, recipe: Recipe, vocabulary: str, losses: list[float], folder: Path, rank: int
) -> None:
    whole: dict[str, Any] = {}
    for name, tensor in network.tensors().items():  # every process takes part in gathering
        whole[name] = tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()
    if rank:
        return
    meta = {"config": config.to_hf(), "recipe": as_plain(recipe), "vocabulary": vocabulary}
    state = {"version": checkpoint.VERSION, "step": len(losses), "parameters": whole, "optimizer": {}, "meta": meta}
    checkpoint.write_state(folder / checkpoint.LATEST, state)
    lines = [json.dumps({"step": step, "loss": round(loss, 5)}) for step, loss in enumerate(losses)]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(recipe: str, folder: str) -> None:
    """One process of a group that torchrun started; pre-training of new models."""
    asked = read_recipe(recipe, "pretrain")
    if asked.config is None:
        raise UsageError(f"{recipe}: only new models are trained by several processes so far; give sizes in [model]")
    dist.init_process_group("gloo")
    try:
        losses = train_sharded(asked.config, asked.recipe, list(asked.shards), folder)
        if dist.get_rank() == 0:
            print(f"loss {losses[-1]:.4f} after {len(losses)} steps of {dist.get_world_size()} processes")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
