"""Verification's ``train_and_score`` with this package's trainer: the only file of ``data`` that knows it. Extra ``[torch]``.

An arm's shard is mixed first: documents of the default mix until (1 - share) of the tokens are there, in an order that the
seed decides, then the candidate's (for the baseline, the default mix's next ones). So arms of one seed share the default part.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whimbrel.data.proof.arm import Arm, Outcome
from whimbrel.errors import InvalidParameter, MissingExtra
from whimbrel.formats.shards import ShardReader, ShardWriter, open_shards


@dataclass(frozen=True, kw_only=True)
class Annealer:
    """``base``: a checkpoint of ``train_model``; ``default``: shards of the default mix; ``held_out``: benchmark -> shards.

    Every document of a held-out shard is an item, its score the negated mean loss per token (per marked token, where the shard
    has marks: ``proof.items`` makes such shards of ScalingBench's items), up to ``sequence`` tokens of it.
    The learning rate starts at ``peak_share`` of the base's peak and falls to a twentieth of that.
    """

    base: str
    default: tuple[str, ...]
    held_out: Mapping[str, tuple[str, ...]]
    tokens: int
    scratch_tokens: int = 0
    """of an arm that is trained from scratch; 0: ten times ``tokens``"""
    sequence: int = 512
    rows: int = 8
    peak_share: float = 0.1
    decay: str = "exponential"
    items: int = 200
    """documents of each benchmark"""
    threads: int = 0
    """0: as torch finds them"""
    work: str | None = None

    def __call__(self, arm: Arm) -> Outcome:
        """Train one arm and score it. Raises MissingExtra, InvalidParameter, FormatError, and what the trainer raises."""
        torch = _torch()
        if self.threads:
            torch.set_num_threads(self.threads)
        from whimbrel.train.parameters import trainable
        from whimbrel.train.pretrain import load_checkpoint, train_model

        began = time.perf_counter()
        config, parameters, meta = load_checkpoint(self.base)
        folder = Path(tempfile.mkdtemp(prefix="anneal-", dir=self.work))
        try:
            budget = (self.scratch_tokens or 10 * self.tokens) if arm.from_scratch else self.tokens
            mixed = mix(arm, self.default, budget, folder / "mix.shard")
            recipe = self._recipe(arm, budget, meta)
            fresh = None if arm.from_scratch else trainable(parameters)
            result = train_model(config, recipe, [mixed], folder / "run", parameters=fresh)
            scores = {name: self._scores(result.checkpoint, shards) for name, shards in self.held_out.items()}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        notes = {"loss": result.loss, "steps": result.steps}
        return Outcome(scores=scores, tokens=result.tokens, seconds=time.perf_counter() - began, notes=notes)

    def base_tokens(self) -> int:
        """What training the base took, by its recipe: the cost of one arm from scratch. Raises FormatError."""
        _torch()
        from whimbrel.train.pretrain import load_checkpoint

        recipe = load_checkpoint(self.base)[2]["recipe"]
        return int(recipe["schedule"]["total"] * recipe["batch"]["sequence"] * recipe["batch"]["rows"])

    def _recipe(self, arm: Arm, budget: int, meta: Mapping[str, Any]) -> Any:
        """The base's optimizer; its peak and warmup from scratch, ``peak_share`` of its peak for annealing.

        A warmup from scratch ends after a fifth of the run: with a twentieth, five steps, the spread of a 5-million-parameter model's
        losses between seeds was as large as the distance between sets; with a fifth it was less than half (docs/ultraclean.md).
        """
        from whimbrel.train.parametrization import Optimizer
        from whimbrel.train.recipe import BatchShape, Recipe
        from whimbrel.train.schedule import WSD

        kept = dict(meta["recipe"]["optimizer"])
        kept["betas"] = tuple(kept["betas"])
        peak = float(meta["recipe"]["schedule"]["peak"])
        steps = max(budget // (self.sequence * self.rows), 2)
        wanted = min(meta["recipe"]["schedule"]["warmup"], steps // 5) if arm.from_scratch else steps // 20
        warmup = min(max(wanted, 1), steps - 1)
        decay = max(steps // 10, 1) if arm.from_scratch else steps - warmup
        schedule = WSD(
            peak=peak if arm.from_scratch else peak * self.peak_share, warmup=warmup, total=steps,
            decay=min(decay, steps - warmup), kind=self.decay,
        )  # fmt: skip
        return Recipe(
            schedule=schedule,
            optimizer=Optimizer(**kept),
            batch=BatchShape(sequence=self.sequence, rows=self.rows),
            seed=arm.seed,
            save_every=max(steps, 1),
        )

    def _scores(self, checkpoint: Path, shards: Sequence[str]) -> NDArray[np.float64]:
        """Negated mean loss per token of each document."""
        torch = _torch()
        from whimbrel.models.rope import rope_table
        from whimbrel.train.batches import Batch
        from whimbrel.train.ops import training_ops
        from whimbrel.train.pretrain import load_checkpoint, token_loss

        config, parameters, _ = load_checkpoint(checkpoint)
        ops, rope = training_ops(), rope_table(config, self.sequence)
        scores = []
        with torch.no_grad():
            for ids, targets in _documents(shards, self.sequence):
                length = len(ids)
                batch = Batch(ids, targets, np.arange(length, dtype=np.int32), np.array([0, length], np.int32))
                scores.append(-token_loss(config, parameters, ops, rope, batch).item() / batch.learned)
                if len(scores) == self.items:
                    break
        if not scores:
            raise InvalidParameter(
                f"{', '.join(shards)}: no document with a token to predict within {self.sequence} tokens"
            )
        return np.array(scores)


def mix(arm: Arm, default: Sequence[str], tokens: int, path: Path) -> Path:
    """Write an arm's shard of ``tokens`` tokens, the last document cut. Raises InvalidParameter when texts do not suffice.

    The candidate is repeated when it is smaller than its share, as an annealing would see it again.
    """
    order = np.random.default_rng(arm.seed)
    readers = open_shards(default)
    places = [(reader, at) for reader in readers for at in range(len(reader))]
    shuffled = [places[at] for at in order.permutation(len(places))]
    share = round(tokens * arm.share)
    header = readers[0].header
    with ShardWriter(path, vocab_size=header.vocab_size, vocabulary=header.vocabulary) as made:
        source = iter(shuffled)
        _fill(made, source, tokens - share, "the default mix")
        if arm.candidate:
            picked = open_shards(arm.candidate, vocabulary=header.vocabulary)
            source = _again([(reader, at) for reader in picked for at in range(len(reader))], order)
        _fill(made, source, share, arm.name)
    return path


def _fill(made: ShardWriter, source: "Iterator[tuple[ShardReader, int]]", tokens: int, name: str) -> None:
    left = tokens
    while left > 0:
        place = next(source, None)
        if place is None:
            raise InvalidParameter(f"{name} has {left:,} tokens too few for a run; give more text or fewer tokens")
        ids = place[0][place[1]][:left]
        made.add(ids)
        left -= len(ids)


def _again(places: list[tuple[ShardReader, int]], order: np.random.Generator) -> "Iterator[tuple[ShardReader, int]]":
    while True:
        for at in order.permutation(len(places)):
            yield places[at]


def _documents(shards: Sequence[str], longest: int) -> "Iterator[tuple[NDArray[Any], NDArray[Any]]]":
    """Ids and targets of documents that have something to predict, at most ``longest`` of each."""
    from whimbrel.train.batches import IGNORED, ids_and_targets

    for reader in open_shards(shards):
        first = 0
        for end in reader.ends.tolist():
            ids, targets = ids_and_targets(reader, first, min(longest, end - first - 1))
            first = end
            if (targets != IGNORED).any():
                yield ids, targets


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("training needs torch: `pip install whimbrel[torch]`") from error
    return torch
