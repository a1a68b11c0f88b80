"""Efficient verification: every candidate and the default mix, k seeds each, by the same short annealing; then decide.

Finished runs are kept in a ledger, one file each, so an interrupted verification goes on where it was.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whimbrel.data.proof.arm import BASELINE, Arm, Outcome, TrainAndScore
from whimbrel.data.proof.decision import Decision, decide
from whimbrel.data.running.plan import write_whole
from whimbrel.errors import FormatError, InvalidParameter, WriteError

OnRun = Callable[[Arm, Outcome], None]


@dataclass(frozen=True)
class Verification:
    """Candidates from best to worst. ``tokens`` and ``seconds``: of one run, and of all."""

    decisions: Mapping[str, Decision]
    share: float
    seeds: tuple[int, ...]
    tokens_per_run: int
    tokens: int
    seconds: float
    from_scratch: bool

    @property
    def ranking(self) -> list[str]:
        """Names by gain."""
        return sorted(self.decisions, key=lambda name: -self.decisions[name].gain.mean)

    def json(self) -> dict[str, Any]:
        """For reports."""
        plain = {name: {**asdict(found), "verdict": found.verdict} for name, found in self.decisions.items()}
        return {**asdict(self), "decisions": plain, "ranking": self.ranking}


def verify(
    candidates: Mapping[str, Sequence[str]],
    train_and_score: TrainAndScore,
    ledger: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    share: float = 0.3,
    from_scratch: bool = False,
    on_run: OnRun = lambda arm, outcome: None,
) -> Verification:
    """Train every arm that the ledger lacks, and decide. ``candidates``: name -> token shards.

    Raises InvalidParameter, FormatError (a damaged ledger), WriteError, and what ``train_and_score`` raises.
    """
    if not candidates or not seeds or not 0 < share <= 1:
        raise InvalidParameter(
            f"{len(candidates)} candidates, {len(seeds)} seeds, share={share}: want some, and a share in (0, 1]"
        )
    if empty := [name for name, shards in candidates.items() if not shards]:
        raise InvalidParameter(f"{', '.join(empty)}: no token shards, so there is nothing to train on")
    if BASELINE in candidates:
        raise InvalidParameter(f"a candidate can't be called {BASELINE!r}")
    arms = [
        Arm(name=name, candidate=tuple(shards), share=share, seed=seed, from_scratch=from_scratch)
        for seed in seeds
        for name, shards in ((BASELINE, ()), *candidates.items())
    ]
    outcomes: dict[str, list[Outcome]] = {}
    for arm in arms:
        outcome = _run(arm, train_and_score, Path(ledger))
        outcomes.setdefault(arm.name, []).append(outcome)
        on_run(arm, outcome)
    base = [outcome.scores for outcome in outcomes[BASELINE]]
    everything = [outcome for runs in outcomes.values() for outcome in runs]
    return Verification(
        decisions={name: decide([outcome.scores for outcome in outcomes[name]], base) for name in candidates},
        share=share,
        seeds=tuple(seeds),
        tokens_per_run=max(outcome.tokens for outcome in everything),
        tokens=sum(outcome.tokens for outcome in everything),
        seconds=sum(outcome.seconds for outcome in everything),
        from_scratch=from_scratch,
    )


def _run(arm: Arm, train_and_score: TrainAndScore, ledger: Path) -> Outcome:
    name = re.sub(r"\W+", "-", arm.name)
    path = ledger / f"{'scratch' if arm.from_scratch else 'anneal'}-{name}-{arm.seed}.json"
    about = json.loads(json.dumps({**asdict(arm), "trainer": repr(train_and_score)}))
    if path.exists():
        try:
            kept = json.loads(path.read_text())
            if kept["arm"] == about:
                scores = {key: np.array(values) for key, values in kept["scores"].items()}
                return Outcome(scores=scores, tokens=kept["tokens"], seconds=kept["seconds"], notes=kept["notes"])
        except (ValueError, KeyError) as error:
            raise FormatError(f"{path} is no ledger entry ({error}); remove it to train that arm again") from error
    outcome = train_and_score(arm)
    entry = {
        "arm": about,
        "scores": {key: values.tolist() for key, values in outcome.scores.items()},
        "tokens": outcome.tokens,
        "seconds": outcome.seconds,
        "notes": dict(outcome.notes),
    }
    try:
        ledger.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(entry).encode())
    except OSError as error:
        raise WriteError(f"can't write {path}: {error}") from error
    return outcome
