"""Coordinate check: do activations keep their size as the width grows? In muP they do, after a few steps as at the start.

Source: Yang et al. 2022 (Tensor Programs V), appendix D; the procedure of the mup package's README. For each width the
same few training steps; after each, mean |x| of what each layer puts out on one fixed batch. What is reported is the
slope of log mean|x| over log width: 0 is flat, 0.5 is growth with the root of the width.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whimbrel.errors import InvalidParameter, MissingExtra
from whimbrel.tunnel.training import ModelRunner
from whimbrel.tunnel.trial import Trial

FLAT = 0.25
"""A slope whose size is below it counts as flat: half of what growth with the root of the width would be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CoordCheck:
    """Sizes of activations by step, place and width."""

    parametrization: str
    widths: tuple[int, ...]
    sizes: dict[str, tuple[tuple[float, ...], ...]]
    """place -> [step][width] mean |x|; places are ``block 0`` and so on (what it adds to the stream), and ``logits``"""
    slopes: dict[str, tuple[float, ...]]
    """place -> slope after each step, step 0 is before training"""

    @property
    def steepest(self) -> float:
        """The largest slope after the last step; sizes that shrink are no danger (logits at the start may)."""
        return max(slopes[-1] for slopes in self.slopes.values())

    @property
    def flat(self) -> bool:
        """No activation grows with the width."""
        return self.steepest < FLAT


def coordcheck(
    runner: ModelRunner, widths: Sequence[int], *, parametrization: str = "mup", rate: float = 0.01, steps: int = 5
) -> CoordCheck:
    """Train each width for a few steps at a constant rate. Raises InvalidParameter for fewer than two widths."""
    if len(set(widths)) < 2 or steps < 1:
        raise InvalidParameter(f"widths={list(widths)} and steps={steps}: at least 2 widths and 1 step were expected")
    by_width = [_sizes(runner, width, parametrization, rate, steps) for width in sorted(set(widths))]
    places = by_width[0][0]
    sizes = {place: tuple(tuple(one[step][place] for one in by_width) for step in range(steps + 1)) for place in places}
    logs = np.log(sorted(set(widths)))
    slopes = {place: tuple(float(np.polyfit(logs, np.log(row), 1)[0]) for row in rows) for place, rows in sizes.items()}
    return CoordCheck(parametrization=parametrization, widths=tuple(sorted(set(widths))), sizes=sizes, slopes=slopes)


def _sizes(runner: ModelRunner, width: int, parametrization: str, rate: float, steps: int) -> list[dict[str, float]]:
    """After 0, 1, ... ``steps`` steps, the mean |x| of each place."""
    try:
        import torch
    except ImportError:
        raise MissingExtra("the coordinate check needs torch: pip install 'whimbrel[torch]'") from None
    from whimbrel.formats.shards import ShardReader
    from whimbrel.train.batches import Batches
    from whimbrel.train.loop import Run, train
    from whimbrel.train.parametrization import groups, initial_parameters
    from whimbrel.train.pretrain import token_loss
    from whimbrel.train.schedule import WSD

    torch.set_num_threads(runner.threads)
    trial = Trial(
        width=width, rate=rate, tokens_per_step=4 * runner.sequence, steps=steps, parametrization=parametrization
    )
    shard = ShardReader(runner.corpus / "train.shard")
    config, optimizer = runner.config(trial, shard.header.vocab_size), runner.train_recipe(trial).optimizer
    parameters = initial_parameters(config, optimizer, 0)
    batches = Batches([shard], sequence=runner.sequence, rows=4)
    ops, rope = _network(config, runner.sequence)

    def losses(step: int) -> dict[str, Any]:
        batch = batches.batch(step)
        return {"loss": token_loss(config, parameters, ops, rope, batch) / max(1, batch.learned)}

    probe = batches.batch(steps)
    found = [_measure(config, parameters, probe, runner.sequence)]
    with tempfile.TemporaryDirectory() as folder:
        schedule = WSD(peak=rate, warmup=0, total=steps, decay=0)
        run = Run(folder=Path(folder), schedule=schedule, groups=groups(config, optimizer, parameters), save_every=1)
        for step in range(1, steps + 1):
            train(parameters, losses, run, stop=step)
            found.append(_measure(config, parameters, probe, runner.sequence))
    return found


def _network(config: Any, sequence: int) -> tuple[Any, Any]:
    from whimbrel.models.rope import rope_table
    from whimbrel.train.ops import training_ops

    return training_ops(), rope_table(config, sequence)


def _measure(config: Any, parameters: Any, batch: Any, sequence: int) -> dict[str, float]:
    """Mean |x| of each block's output and of the logits, on one batch. A model cut to k layers gives block k's."""
    from dataclasses import replace

    import torch

    from whimbrel.train.network import packed_hidden_states, scores

    ops, rope = _network(config, sequence)
    sizes: dict[str, float] = {}
    with torch.no_grad():
        ids = torch.from_numpy(batch.token_ids).long()
        hidden = config.scale_emb * parameters[config.family.hf_model_names["embed_tokens"]][ids]
        for layers in range(1, config.num_hidden_layers + 1):
            after = packed_hidden_states(replace(config, num_hidden_layers=layers), parameters, ops, rope, batch)
            sizes[f"block {layers - 1}"] = float((after - hidden).abs().mean())
            hidden = after
        sizes["logits"] = float(scores(config, parameters, ops, hidden).abs().mean())
    return sizes
