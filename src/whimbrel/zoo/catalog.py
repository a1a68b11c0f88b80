"""The models known by a short name: ``catalog.toml``, read and checked."""

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources

from whimbrel.errors import FormatError

DEFAULT_MODEL = "smollm2-135m"
"""What ``run`` and ``ask`` use when nothing else is said: it comes from a package registry, no hub needed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogEntry:
    """One table of ``catalog.toml``."""

    name: str
    title: str
    family: str
    parameters: int
    context: int
    license: str
    source: str
    """"wheel" or "hub": which of the fields below are set"""
    requirement: str = ""
    wheel_sha256: str = ""
    wheel_bytes: int = 0
    member: str = ""
    sha256: str = ""
    bytes: int = 0
    repository: str = ""
    revision: str = ""


@cache
def catalog() -> dict[str, CatalogEntry]:
    """All entries by name, in the file's order. Raises FormatError where the file has an unknown or missing key."""
    text = (resources.files("whimbrel.zoo") / "catalog.toml").read_text(encoding="utf-8")
    return {name: _entry(name, table) for name, table in tomllib.loads(text).items()}


def _entry(name: str, table: dict[str, object]) -> CatalogEntry:
    known = {field.name for field in fields(CatalogEntry)}
    if unknown := sorted(set(table) - known):
        raise FormatError(f"catalog.toml: [{name}] has unknown keys {', '.join(unknown)}")
    try:
        return CatalogEntry(name=name, **table)  # type: ignore[arg-type]
    except TypeError as error:
        raise FormatError(f"catalog.toml: [{name}] is incomplete: {error}") from error
