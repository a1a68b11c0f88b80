"""Documents that were read before, on the command line: which files are such, and the model that read them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whimbrel.errors import ModelNotFound, UsageError

if TYPE_CHECKING:
    from whimbrel.backends.document import Document
    from whimbrel.backends.llm import LLM


def are_kept(files: Sequence[str]) -> bool:
    """True if the files are ``.kv`` files. Raises UsageError where some are and some are not."""
    from whimbrel.formats.kv_file import is_kv_file

    kept = [name for name in files if name != "-" and (name.endswith(".kv") or is_kv_file(Path(name)))]
    if kept and len(kept) < len(files):
        other = next(name for name in files if name not in kept)
        raise UsageError(f"{kept[0]} was read before and {other} was not; read it first: whimbrel read {other}")
    return bool(kept)


def open_kept(files: Sequence[str], flags: dict[str, Any], *, system: str | None, stale: bool) -> "Document":
    """Open files and their model. Settings are the flags', or else those under which the files were read.

    Raises what ``LLM.open_document`` does, and ModelNotFound where the model is gone.
    """
    from whimbrel.backends.document import settings_for
    from whimbrel.backends.stored import StoredDocument
    from whimbrel.cli.settings import filled

    first = StoredDocument(files[0])
    if system is not None and system != first.system:
        was = f"the system message {first.system!r}" if first.system else "no system message"
        raise UsageError(f"{files[0]} was read with {was}; leave --system out, or read it again with --system")
    given = {key: value for key, value in flags.items() if value is not None and key != "model"}
    chosen = {**settings_for(files), **filled({"threads": None}), **given}
    if chosen.get("attention") == "dense":
        chosen.pop("sparse", None)
    llm = _open(first, flags.get("model"), chosen)
    return llm.open_document(*files, stale=stale)


def _open(document: "Any", model: str | None, options: dict[str, Any]) -> "LLM":
    from whimbrel.backends.llm import LLM
    from whimbrel.zoo.plan import refuse_too_large
    from whimbrel.zoo.store import resolve

    path = Path(document.model["path"])
    if model is not None:
        path = resolve(model)
    elif not path.exists():
        try:
            path = resolve(document.model["name"]) if document.model.get("name") else path
        except ModelNotFound as error:
            raise ModelNotFound(f"{document.path} was read by {document.model['name']}: {error}") from None
        if not path.exists():
            raise ModelNotFound(f"{document.path} was read by the model at {path}, which is gone; name it with -m")
    refuse_too_large(path, options.get("weights"))
    return LLM(path, **options)
