"""The UltraClean loop: seeds -> verify -> classifier -> filter a sample -> verify that -> adjust, again -> filter everything.

Round 0 verifies each candidate seed set and makes those with a gain the positives. Every round trains a classifier, filters a
sample of the pool and verifies what is left. What verifies better than anything before becomes the best classifier, and the
documents that it accepts and rejects are the next round's training data; when a round gains nothing, the share of negatives
and the threshold are changed before the next. Only a classifier that verified is run over everything.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whimbrel.data.proof.arm import TrainAndScore
from whimbrel.data.proof.decision import Decision
from whimbrel.data.proof.recipe import UltraCleanRecipe
from whimbrel.data.proof.verify import OnRun, verify
from whimbrel.data.reading.files import find
from whimbrel.data.reading.read import read
from whimbrel.data.running.plan import Plan, write_whole
from whimbrel.data.running.run import Runner, run
from whimbrel.data.running.tally import Tally
from whimbrel.data.scoring.split import split
from whimbrel.errors import UsageError, WriteError

OnEvent = Callable[[str], None]
ADJUSTMENTS = ((1.0, 0.5), (2.0, 0.5), (1.0, 0.7), (2.0, 0.7))
"""negatives per positive, and the threshold: tried in this order, one further with each round without gain"""


@dataclass(frozen=True)
class Round:
    """What a round did. ``decision``: of its filtered sample against the default mix."""

    index: int
    positives: int
    negatives: int
    negatives_per_positive: float
    threshold: float
    f1: float
    kept: int
    of: int
    decision: Decision
    classifier: str


@dataclass(frozen=True)
class Report:
    """The whole run; ``best`` is the index of the round whose classifier filtered everything, None when none verified."""

    seeds: Mapping[str, Decision]
    rounds: tuple[Round, ...]
    best: int | None
    final: Tally | None


def ultraclean(
    recipe: UltraCleanRecipe,
    train_and_score: TrainAndScore,
    runner: Runner,
    output: str | Path,
    *,
    on_event: OnEvent = lambda text: None,
    on_run: OnRun = lambda arm, outcome: None,
) -> Report:
    """Run the loop; what ``output`` already has is not done again. Ends with ``ledger.json`` and ``report.md`` there.

    Raises UsageError when no seed set verifies, and what the parts raise.
    """
    folder = Path(output)
    tokens = _Shards(recipe, runner, folder)
    on_event(f"verifying {len(recipe.seeds)} seed sets")
    candidates = {name: tokens.of(f"seed-{name}", patterns) for name, patterns in recipe.seeds.items()}
    first = verify(
        candidates, train_and_score, folder / "runs", seeds=recipe.random_seeds, share=recipe.share, on_run=on_run
    )
    accepted = [name for name in recipe.seeds if first.decisions[name].accepted]
    if not accepted:
        verdicts = "; ".join(f"{name} {found.verdict}" for name, found in first.decisions.items())
        raise UsageError(
            f"no seed set is better than the default mix ({verdicts}); give other seeds, or more tokens a run"
        )
    positives = [text for name in accepted for text in _texts(recipe.seeds[name], recipe)]
    negatives = list(_texts(recipe.negatives, recipe))
    rounds: list[Round] = []
    best: Round | None = None
    stuck = 0
    for index in range(recipe.rounds):
        adjustment = ADJUSTMENTS[min(stuck, len(ADJUSTMENTS) - 1)]
        on_event(
            f"round {index}: {len(positives)} positives, {adjustment[0]:g} negatives for each, threshold {adjustment[1]}"
        )
        made = _round(index, recipe, train_and_score, runner, folder, tokens, positives, negatives, adjustment, on_run)
        rounds.append(made)
        gained = best is None or made.decision.gain.mean > best.decision.gain.mean + made.decision.gain.error
        stuck = 0 if gained else stuck + 1
        if made.decision.accepted and (best is None or made.decision.gain.mean > best.decision.gain.mean):
            best = made
            positives, negatives = _labelled(folder / f"round-{index}" / "sample")
        on_event(f"round {index}: {made.decision.verdict}, gain {made.decision.gain.mean:+.4f}")
        if best is not None and stuck:
            break
    final = None
    if best is not None:
        on_event(f"filtering everything with round {best.index}'s classifier")
        final = _filter(recipe, runner, Path(best.classifier), best.threshold, recipe.pool, folder / "filtered", False)
    report = Report(first.decisions, tuple(rounds), None if best is None else best.index, final)
    _write(report, folder)
    return report


def _round(
    index: int,
    recipe: UltraCleanRecipe,
    train_and_score: TrainAndScore,
    runner: Runner,
    folder: Path,
    tokens: "_Shards",
    positives: Sequence[str],
    negatives: Sequence[str],
    adjustment: tuple[float, float],
    on_run: OnRun,
) -> Round:
    """Classifier, filtered sample, verification."""
    from whimbrel.data.scoring.classifier import QualityClassifier
    from whimbrel.data.scoring.held_out import measure
    from whimbrel.data.scoring.training import train

    ratio, threshold = adjustment
    good, good_held = split(positives, recipe.held_out, recipe.seed)
    bad, bad_held = split(negatives, recipe.held_out, recipe.seed)
    count = min(len(good), int(len(bad) / ratio)) or 1
    path = folder / f"round-{index}" / "classifier.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = good[:count], bad[: round(count * ratio)]
    if not path.exists():
        train(*chosen, recipe.tokenizer, path, recipe.classifier)
    classifier = QualityClassifier(path, recipe.tokenizer)
    quality = measure(classifier.score(good_held), classifier.score(bad_held), threshold)
    sample = folder / f"round-{index}" / "sample"
    tally = _filter(recipe, runner, path, threshold, recipe.sample, sample, True)
    name = f"round {index}"
    shards = tokens.of(f"round-{index}-kept", [str(sample / "*.jsonl.zst")])
    proof = verify(
        {name: shards}, train_and_score, folder / "runs", seeds=recipe.random_seeds, share=recipe.share, on_run=on_run
    )
    return Round(
        index, len(chosen[0]), len(chosen[1]), ratio, threshold, quality.f1, tally.kept, tally.documents,
        proof.decisions[name], str(path),
    )  # fmt: skip


def _filter(
    recipe: UltraCleanRecipe,
    runner: Runner,
    classifier: Path,
    threshold: float,
    patterns: Sequence[str],
    output: Path,
    keep_rejected: bool,
) -> Tally:
    from whimbrel.data.filters.quality import Quality
    from whimbrel.data.scoring.classifier import QualityClassifier

    judge = Quality(QualityClassifier(classifier, recipe.tokenizer), threshold)
    plan = Plan(
        inputs=tuple(find(patterns)),
        output=output,
        filters=(judge,),
        column=recipe.column,
        keep_rejected=keep_rejected,
    )
    return run(plan, runner)


@dataclass(frozen=True)
class _Shards:
    """Texts as token shards of the model that verification trains, made once per name."""

    recipe: UltraCleanRecipe
    runner: Runner
    folder: Path

    def of(self, name: str, patterns: Sequence[str]) -> tuple[str, ...]:
        plan = Plan(
            inputs=tuple(find(patterns)),
            output=self.folder / "shards" / name,
            column=self.recipe.column if name.startswith("seed-") else "text",
            format="shards",
            shard_tokenizer=self.recipe.model_tokenizer,
        )
        run(plan, self.runner)
        return tuple(str(path) for path in sorted(plan.output.glob("*.shard")))


def _texts(patterns: Sequence[str], recipe: UltraCleanRecipe) -> Iterator[str]:
    """The first texts of the inputs, as many as the recipe allows for a class."""
    documents = (document for file in find(patterns) for document in read(file, recipe.column, lambda fault: None))
    texts = (document.text for document in documents if document.text.strip())
    return itertools.islice(texts, recipe.texts_per_class)


def _labelled(sample: Path) -> tuple[list[str], list[str]]:
    """A filtered sample as the next round's training data."""
    sides = []
    for pattern in (sample / "*.jsonl.zst", sample / "rejected" / "*.jsonl.zst"):
        sides.append(
            [document.text for file in find([str(pattern)]) for document in read(file) if document.text.strip()]
        )
    return sides[0], sides[1]


def _write(report: Report, folder: Path) -> None:
    plain: dict[str, Any] = asdict(report)
    try:
        write_whole(folder / "ledger.json", json.dumps(plain, indent=1).encode("utf-8", "surrogatepass"))
        write_whole(folder / "report.md", "\n".join(_lines(report)).encode())
    except OSError as error:
        raise WriteError(f"can't write the report to {folder}: {error}") from error


def _lines(report: Report) -> Iterator[str]:
    yield "# UltraClean\n\n## Seed sets\n\n| set | gain | standard error | decision |\n|---|---|---|---|"
    for name, found in sorted(report.seeds.items(), key=lambda item: -item[1].gain.mean):
        yield f"| {name} | {found.gain.mean:+.4f} | {found.gain.error:.4f} | {found.verdict} |"
    yield "\n## Rounds\n\n| round | texts + / - | threshold | F1 | kept | gain | standard error | decision |"
    yield "|---|---|---|---|---|---|---|---|"
    for made in report.rounds:
        found = made.decision
        yield (
            f"| {made.index} | {made.positives} / {made.negatives} | {made.threshold} | {made.f1:.4f} "
            f"| {made.kept} of {made.of} | {found.gain.mean:+.4f} | {found.gain.error:.4f} | {found.verdict} |"
        )
    if report.final is None:
        yield "\nNo classifier verified, so nothing was filtered.\n"
    else:
        yield f"\nRound {report.best} filtered the pool: {report.final.kept} of {report.final.documents} documents kept.\n"
