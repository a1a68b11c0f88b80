"""train_model: a decoder, a recipe and token shards become a checkpoint and a loss curve; evaluate_loss measures one.

The loss of a step is the mean over all its learned tokens, however many parts it is run in.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whimbrel.errors import FormatError, InvalidParameter
from whimbrel.models.config import ModelConfig
from whimbrel.models.rope import RopeTable
from whimbrel.ops.table import OpTable
from whimbrel.train import checkpoint, loop, network
from whimbrel.train.batches import Batch, Batches, Shards
from whimbrel.train.device import DeviceRope, move, training_device
from whimbrel.train.fp8 import fp8_linear, fp8_path
from whimbrel.train.lora import Lora, lora_parameters, merged
from whimbrel.train.mixed import Mixed, open_batches
from whimbrel.train.mtp import PREFIX, mtp_loss, mtp_parameters
from whimbrel.train.ops import training_ops
from whimbrel.train.parameters import Parameters
from whimbrel.train.parametrization import check_scalings, groups, initial_parameters
from whimbrel.train.processes import Losses
from whimbrel.train.recipe import Recipe

LAST = 0.02
"""The share of a run's logged losses whose mean is its final training loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a run came to."""

    loss: float
    """mean of the last 2% of the logged training losses (at least one), nats per token"""
    held_out_loss: float | None
    """on the shards that were held out, where there were any"""
    curve: tuple[tuple[int, float], ...]
    """(step, loss) as logged; skipped batches are left out"""
    steps: int
    tokens: int
    """inputs of all steps so far"""
    seconds: float
    """of this call; a resumed run counts from where it resumed"""
    checkpoint: Path
    ended_early: bool
    """a watcher ended it before the schedule did"""


def train_model(
    config: ModelConfig,
    recipe: Recipe,
    shards: Shards,
    folder: str | Path,
    *,
    held_out: Shards | None = None,
    watchers: Sequence[loop.Watcher] = (),
    parameters: Parameters | None = None,
    lora: Lora | None = None,
) -> TrainResult:
    """Train from fresh weights (or ``parameters``, changed in place) until the schedule ends; goes on where it was stopped.

    ``watchers`` see every logged line (``step``, ``loss``, ...); one that returns True ends the run there. Raises
    InvalidParameter (the recipe contradicts model or data), FormatError (checkpoint or shards of another kind),
    UnsupportedCapability (no such device here), TrainingDiverged, WriteError. The checkpoint is read on any device.
    """
    started, folder, device = time.perf_counter(), Path(folder), training_device(recipe.device)
    check_scalings(config, recipe.optimizer)
    if lora is not None and (recipe.mtp or recipe.optimizer.parametrization == "mup" or parameters is None or held_out):
        raise InvalidParameter(
            "lora changes a model that exists, with one rate for all: give parameters, set the optimizer's parametrization "
            "to standard and mtp to 0, and hold nothing out (measure the merged model)"
        )
    batches = open_batches(shards, recipe.batch, recipe.seed)
    check_vocabulary(config, batches)
    parameters = parameters or initial_parameters(config, recipe.optimizer, recipe.seed)
    base: Parameters | None = None
    if lora is not None:
        base, parameters = parameters, lora_parameters(parameters, lora, recipe.seed)
        for tensor in base.values():
            tensor.requires_grad_(False)
    if recipe.mtp:
        parameters = {**parameters, **mtp_parameters(config, parameters)}
    move([*parameters.values(), *(base or {}).values()], device)
    student = Student(config, parameters, recipe, base, lora)
    run = run_of(config, recipe, parameters, batches, folder, watchers)
    steps = loop.train(parameters, lambda step: student.losses(batches.batch(step)), run)
    state = folder / checkpoint.LATEST
    measured = (
        None
        if held_out is None
        else evaluate_loss(state, held_out, sequence=recipe.batch.sequence, device=recipe.device)
    )
    curve = read_curve(folder)
    tail = [loss for _, loss in curve[-max(1, round(LAST * len(curve))) :]]
    return TrainResult(
        loss=sum(tail) / len(tail) if tail else float("nan"),
        held_out_loss=measured,
        curve=curve,
        steps=steps,
        tokens=round(steps * batches.tokens_per_step),
        seconds=time.perf_counter() - started,
        checkpoint=state,
        ended_early=steps < recipe.schedule.total,
    )


def run_of(
    config: ModelConfig,
    recipe: Recipe,
    parameters: Parameters,
    batches: Batches | Mixed,
    folder: Path,
    watchers: Sequence[loop.Watcher] = (),
) -> loop.Run:
    """A recipe as the loop takes it; what its checkpoints say about it is here too, which path FP8 took included."""
    meta = {"config": config.to_hf(), "recipe": as_plain(recipe), "vocabulary": batches.vocabulary}
    if recipe.precision == "fp8":
        meta["fp8"] = fp8_path(next(iter(parameters.values())).device)
    return loop.Run(
        folder=folder,
        schedule=recipe.schedule,
        betas=recipe.optimizer.betas,
        eps=recipe.optimizer.eps,
        groups=groups(config, recipe.optimizer, parameters),
        clip=recipe.clip,
        log_every=recipe.log_every,
        save_every=recipe.save_every,
        keep_every=recipe.keep_every,
        keep_last=recipe.keep_last,
        start=recipe.start,
        spikes=recipe.spikes,
        meta=meta,
        accept=partial(_same_model_and_text, config.to_hf(), batches.vocabulary),
        watchers=watchers,
    )


def evaluate_loss(
    path: str | Path,
    shards: Shards,
    *,
    sequence: int = 512,
    rows: int = 8,
    max_batches: int | None = None,
    device: str = "cpu",
) -> float:
    """Mean nats per token of a training checkpoint on all (or the first ``max_batches``) batches of shards, in fp32.

    Raises FormatError where the checkpoint is not ``train_model``'s, or the shards are of another vocabulary;
    UnsupportedCapability where there is no such ``device``.
    """
    place = training_device(device)
    config, parameters, meta = load_checkpoint(path)
    batches = Batches(shards, sequence=sequence, rows=1)
    if batches.vocabulary != meta.get("vocabulary"):
        raise FormatError(
            f"{path}: trained on vocabulary {meta.get('vocabulary')}, the shards have {batches.vocabulary}"
        )
    move(parameters.values(), place)
    return mean_loss(
        config, parameters, Batches(shards, sequence=sequence, rows=min(rows, batches.row_count)), max_batches
    )


@torch.no_grad()
def mean_loss(
    config: ModelConfig, parameters: Mapping[str, Tensor], batches: Batches, max_batches: int | None = None
) -> float:
    """Mean nats per learned token over one epoch of batches (what is over at its end is left out), or the first few.

    Computed where the parameters are.
    """
    ops = training_ops()
    rope = DeviceRope(config, batches.sequence, next(iter(parameters.values())).device)
    total, learned = 0.0, 0
    for step in range(min(int(batches.steps_per_epoch), max_batches or batches.row_count)):
        batch = batches.batch(step)
        total += token_loss(config, parameters, ops, rope, batch).item()
        learned += batch.learned
    return total / learned


def load_checkpoint(path: str | Path) -> tuple[ModelConfig, dict[str, Tensor], dict[str, Any]]:
    """Configuration, parameters (without the MTP head) and meta of a checkpoint that ``train_model`` wrote; a run's folder means its latest."""
    file = Path(path) / checkpoint.LATEST if Path(path).is_dir() else Path(path)
    progress = checkpoint.load(file)
    if progress is None or "config" not in progress.meta:
        found = "there is no such file" if progress is None else "it does not name its model"
        raise FormatError(f"{file}: not a checkpoint of train_model: {found}")
    tensors = {name: tensor for name, tensor in progress.parameters.items() if not name.startswith(PREFIX)}
    return ModelConfig.from_hf(progress.meta["config"]), tensors, progress.meta


def read_curve(folder: str | Path) -> tuple[tuple[int, float], ...]:
    """(step, loss) of a run's log, skipped batches left out."""
    lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return tuple((line["step"], line["loss"]) for line in lines if "skipped" not in line)


def token_loss(
    config: ModelConfig, tensors: Mapping[str, Tensor], ops: OpTable, rope: RopeTable | DeviceRope, batch: Batch
) -> Tensor:
    """The sum of the learned tokens' losses in nats, a scalar."""
    hidden = network.packed_hidden_states(config, tensors, ops, rope, batch)
    return summed_loss(config, tensors, hidden, batch)


def summed_loss(config: ModelConfig, tensors: Mapping[str, Tensor], hidden: Tensor, batch: Batch) -> Tensor:
    """The same of a residual stream ``[T, hidden_size]`` that is there already."""
    return network.summed_loss(config, tensors, hidden, torch.from_numpy(batch.targets).to(hidden.device))


def as_plain(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON has it; the schedule's class is its field ``name``."""
    plain = asdict(recipe) | {"schedule": {"name": type(recipe.schedule).__name__, **asdict(recipe.schedule)}}  # type: ignore[call-overload]
    return json.loads(json.dumps(plain, default=str))  # type: ignore[no-any-return]


class Student:
    """A model in training: the losses of a batch, as the recipe wants them computed."""

    def __init__(
        self,
        config: ModelConfig,
        parameters: Mapping[str, Tensor],
        recipe: Recipe,
        base: Mapping[str, Tensor] | None = None,
        lora: Lora | None = None,
    ) -> None:
        """With ``lora``, ``parameters`` are its changes of the frozen ``base``."""
        self.config, self.parameters, self.recipe, self.base, self.lora = config, parameters, recipe, base, lora
        self.ops = training_ops(fp8_linear) if recipe.precision == "fp8" else training_ops()
        self.device = next(iter(parameters.values())).device
        self.rope = DeviceRope(config, recipe.batch.sequence, self.device)

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Of each part of the batch: what it adds to the mean over all learned tokens."""
        learned = max(1, batch.learned)
        for part in batch.split(self.recipe.batch.parts):
            with autocast(self.recipe.precision, self.device.type):
                losses = self.part(part, learned)
            yield losses

    def part(self, batch: Batch, learned: int) -> Losses:
        """Of some pieces of a batch: what they add to a mean over ``learned`` tokens."""
        config, tensors = self.config, self.parameters
        if self.base is not None and self.lora is not None:
            tensors = merged(self.base, self.parameters, self.lora)
        hidden = network.packed_hidden_states(
            config, tensors, self.ops, self.rope, batch, recompute=self.recipe.recompute
        )
        loss = summed_loss(config, tensors, hidden, batch) / learned
        if not self.recipe.mtp:
            return {"loss": loss}
        # Positions of the second loss are fewer by one a piece; both are means over the same count.
        second = mtp_loss(config, tensors, self.ops, self.rope, batch, hidden) / learned
        return {"loss": loss + self.recipe.mtp * second, "next": loss.detach(), "mtp": second.detach()}


def autocast(precision: str, device: str = "cpu") -> contextlib.AbstractContextManager[Any]:
    """Products of matrices in bf16, or everything in fp32."""
    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def _same_model_and_text(config: Mapping[str, Any], vocabulary: str, path: Path, progress: checkpoint.Progress) -> None:
    """Shapes agree already; this finds other scalings, rotary embeddings, attention, and other tokenizers."""
    stored = progress.meta.get("config", {})
    for key in sorted({*config, *stored}):
        if config.get(key) != stored.get(key):
            raise FormatError(
                f"{path}: a checkpoint of another architecture: its {key} is {stored.get(key)!r}, "
                f"{config.get(key)!r} was expected; choose another folder for another model"
            )
    if progress.meta.get("vocabulary") != vocabulary:
        raise FormatError(
            f"{path}: trained on vocabulary {progress.meta.get('vocabulary')}, the shards have {vocabulary}; "
            "go on with the shards of the run, or choose another folder"
        )


def check_vocabulary(config: ModelConfig, batches: Batches | Mixed) -> None:
    """Raise FormatError where the shards have more tokens than the model."""
    if batches.vocab_size > config.vocab_size:
        raise FormatError(
            f"the shards' vocabulary has {batches.vocab_size} tokens, the model's {config.vocab_size}; "
            "make the model's vocab_size at least as large, or tokenize with its own tokenizer"
        )
