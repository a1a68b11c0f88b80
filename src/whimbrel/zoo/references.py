"""What a person types to name a model, taken apart. The forms:

- smollm2-135m               a name of the catalogue, or of a registered model
- org/name[:quant][@rev]     a repository on the Hugging Face Hub; ``quant`` picks one GGUF file of it
- https://host/file.gguf     a file by URL
- ./folder, /path/x.gguf     something that is here already
"""

import os
import re
from dataclasses import dataclass

from whimbrel.errors import UsageError

_HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(:(?P<quant>[\w.-]+))?(@(?P<revision>[\w./-]+))?", re.ASCII)
_NAME = re.compile(r"[\w.-]+", re.ASCII)

_LONGEST = 200
"""Records are files named like their models, and file names end at 255 bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """One model, as it was asked for. ``kind`` is "name", "hub", "url" or "path"."""

    text: str
    kind: str
    repository: str = ""
    quant: str = ""
    revision: str = ""


def parse_reference(text: str) -> Reference:
    """Decide what ``text`` names. A path that exists wins; ``./`` and ``~`` always mean a path. Raises UsageError."""
    if not text.strip():
        raise UsageError("the model's name is empty; `whimbrel list --all` shows the names there are")
    if re.match(r"[a-z][a-z0-9+]*://", text):
        return _url(text)
    if text.startswith((".", "/", "~")) or "\\" in text or text.endswith(".gguf") or os.path.exists(text):
        return Reference(text=text, kind="path")
    if len(text) > _LONGEST:
        raise UsageError(f"a model's name has at most {_LONGEST} characters, this one {len(text)}: {text[:40]}...")
    if match := _HUB.fullmatch(text):
        return Reference(text=text, kind="hub", **{key: value or "" for key, value in match.groupdict().items()})
    if _NAME.fullmatch(text):
        return Reference(text=text, kind="name")
    raise UsageError(
        f"{text!r} names no model: expected a name (smollm2-135m), org/name[:quant][@rev], a URL, or a path"
    )


def _url(text: str) -> Reference:
    if not text.startswith(("http://", "https://", "file://")):
        raise UsageError(f"{text!r}: only http, https and file addresses can be pulled")
    if not text.split("?")[0].endswith(".gguf"):
        raise UsageError(f"{text!r}: a URL must end in .gguf; for a repository write org/name")
    return Reference(text=text, kind="url")
