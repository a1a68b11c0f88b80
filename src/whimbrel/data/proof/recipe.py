"""``recipe.toml`` of the UltraClean loop, checked: unknown keys are named, and so is what is missing."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from whimbrel.data.scoring.training import PRESETS, SMALL, FastTextConfig
from whimbrel.errors import FormatError, InvalidParameter, ModelNotFound


@dataclass(frozen=True, kw_only=True)
class UltraCleanRecipe:
    """What the loop needs. Text inputs are paths, folders, globs or URLs; ``base``, ``default`` and ``held_out`` are the trainer's."""

    seeds: Mapping[str, list[str]]
    """candidate seed sets by name"""
    negatives: list[str]
    """a random draw of the raw pool"""
    sample: list[str]
    """a sample of the pool, filtered and verified every round"""
    pool: list[str]
    """everything, filtered in the end"""
    tokenizer: str
    """of the classifier"""
    model_tokenizer: str
    """of the model that verification trains"""
    base: str
    default: list[str]
    held_out_sets: Mapping[str, list[str]]
    tokens: int
    """of one annealing"""
    rounds: int = 3
    random_seeds: tuple[int, ...] = (0, 1, 2)
    share: float = 0.3
    peak_share: float = 0.1
    """of the base's learning rate, where an annealing begins; the report names none, so try some on the default mix alone"""
    held_out: float = 0.1
    """share of the classifier's texts that it is measured on"""
    texts_per_class: int = 100_000
    column: str = "text"
    seed: int = 0
    sequence: int = 512
    rows: int = 8
    classifier: FastTextConfig = field(default=SMALL)

    def __post_init__(self) -> None:
        if not self.seeds or self.rounds < 1 or self.tokens < 1:
            raise InvalidParameter("a recipe needs at least one seed set, rounds of 1 or more and tokens of 1 or more")


def read_recipe(path: str | Path) -> UltraCleanRecipe:
    """Read and check. ``[classifier]`` holds ``preset`` and fastText's arguments.

    Raises ModelNotFound, FormatError (no TOML), InvalidParameter (an unknown or missing key, named).
    """
    try:
        plain: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelNotFound(f"no recipe at {path}: {error}") from error
    except ValueError as error:
        raise FormatError(f"{path} is no TOML: {error}") from error
    classifier = plain.pop("classifier", {})
    preset = classifier.pop("preset", "small")
    if preset not in PRESETS:
        raise InvalidParameter(f"{path}: classifier.preset {preset!r} is unknown; want {' or '.join(PRESETS)}")
    _check(path, plain, UltraCleanRecipe)
    _check(path, classifier, FastTextConfig, "classifier.")
    missing = {
        "seeds",
        "negatives",
        "sample",
        "pool",
        "tokenizer",
        "model_tokenizer",
        "base",
        "default",
        "held_out_sets",
        "tokens",
    }
    if missing := missing - set(plain):
        raise InvalidParameter(f"{path} lacks {', '.join(sorted(missing))}")
    if "random_seeds" in plain:
        plain["random_seeds"] = tuple(plain["random_seeds"])
    defaults = {entry.name: getattr(PRESETS[preset], entry.name) for entry in fields(FastTextConfig)}
    return UltraCleanRecipe(**plain, classifier=FastTextConfig(**{**defaults, **classifier}))


def _check(path: str | Path, plain: Mapping[str, Any], kind: Any, prefix: str = "") -> None:
    known = {entry.name for entry in fields(kind)} - {"classifier"}
    if unknown := set(plain) - known:
        names = ", ".join(prefix + name for name in sorted(unknown))
        raise InvalidParameter(f"{path}: {names} is unknown; want some of {', '.join(sorted(known))}")
