"""muP at a searched rate against the standard parametrization at StepLaw's rate: the MiniCPM4 report's Table 3, small.

Both sides train the same body on the same tokens. muP takes the best rate of a narrow sweep (a ledger), the other one
what StepLaw says, with StepLaw's cosine. Compared are the held-out loss and the conditional loss of answers in the
ScalingBench way: here the second half of held-out documents given the first, which needs no instruction-following.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from whimbrel.errors import InvalidParameter, MissingExtra, UsageError
from whimbrel.tunnel.steplaw import predict
from whimbrel.tunnel.training import ModelRunner, body_parameters
from whimbrel.tunnel.transfer import Runs, transfer
from whimbrel.tunnel.trial import Outcome, Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One side of a comparison."""

    name: str
    trial: Trial
    schedule: str
    outcome: Outcome
    conditional: float | None
    """nats per token of the answers; None where the run did not finish"""


def searched_rate(runs: Runs, below: int) -> float:
    """muP's best rate at the widest width under ``below``. Raises UsageError where the ledger has none, or only its edge."""
    found = [t for t in transfer(runs) if t.parametrization == "mup"]
    narrow = [width for t in found for width in t.widths if width.width < below]
    if not narrow:
        raise UsageError(f"the ledger has no finished muP runs narrower than {below}; sweep those first")
    widest = max(narrow, key=lambda result: result.width)
    if widest.at_edge:
        raise UsageError(
            f"muP's best rate at width {widest.width}, {widest.best_rate:g}, is at the edge of what was tried; sweep on"
        )
    return widest.best_rate


def compare(
    runner: ModelRunner, *, width: int, steps: int, tokens_per_step: int, mup_rate: float, seed: int = 0
) -> tuple[Side, Side]:
    """Train both sides and measure them. ``tokens_per_step`` is the same, so that only parametrization and rate differ."""
    tokens = steps * tokens_per_step
    mup = Trial(width=width, rate=mup_rate, tokens_per_step=tokens_per_step, steps=steps, seed=seed)
    from whimbrel.formats.shards import ShardReader

    vocabulary = ShardReader(runner.corpus / "train.shard").header.vocab_size
    size = body_parameters(runner.config(mup, vocabulary))
    law = predict(size, tokens, sequence=runner.sequence)
    standard = replace(mup, parametrization="standard", rate=law.rate)
    sides = [("muP, searched rate", mup, "wsd"), ("standard, StepLaw's rate", standard, "steplaw")]
    first, second = (_side(runner, *side) for side in sides)
    return first, second


def _side(runner: ModelRunner, name: str, trial: Trial, schedule: str) -> Side:
    keeping = replace(runner, schedule=schedule, keep=True, work=runner.work / f"compare-{schedule}")
    outcome = keeping(trial)
    folder = keeping.work / trial.key
    measured = None if outcome.loss is None else conditional_loss(folder, runner.corpus, sequence=runner.sequence)
    return Side(name=name, trial=trial, schedule=schedule, outcome=outcome, conditional=measured)


def conditional_loss(checkpoint: Path, corpus: Path, *, sequence: int, items: int = 200) -> float:
    """Mean nats per token of the second half of passages given the first. Raises MissingExtra, FormatError."""
    try:
        import torch
    except ImportError:
        raise MissingExtra("measuring a checkpoint needs torch: pip install 'whimbrel[torch]'") from None
    from whimbrel.formats.shards import ShardReader
    from whimbrel.models.rope import rope_table
    from whimbrel.train.batches import IGNORED, Batches
    from whimbrel.train.ops import training_ops
    from whimbrel.train.pretrain import load_checkpoint, token_loss

    if items < 1:
        raise InvalidParameter(f"items={items} is impossible; at least 1 was expected")
    config, parameters, _ = load_checkpoint(checkpoint)
    batches = Batches([ShardReader(corpus / "held_out.shard")], sequence=sequence, rows=1)
    ops, rope = training_ops(), rope_table(config, sequence)
    total, learned = 0.0, 0
    with torch.no_grad():
        for step in range(min(items, batches.row_count)):
            batch = batches.batch(step)
            targets = batch.targets.copy()
            for first, end in pairwise(batch.cu_seqlens.tolist()):
                targets[first : (first + end) // 2] = IGNORED
            answers = replace(batch, targets=targets)
            total += float(token_loss(config, parameters, ops, rope, answers))
            learned += answers.learned
    return total / learned
