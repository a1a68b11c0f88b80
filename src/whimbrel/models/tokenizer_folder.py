"""The tokenizer of a Hugging Face folder: tokenizer.json, or tokenizer.model, and what tokenizer_config.json adds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whimbrel.errors import FormatError
from whimbrel.models.sentencepiece import read_tokenizer_model
from whimbrel.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers


def from_folder(folder: Path) -> Tokenizer:
    """Raises ``FormatError`` when there is neither file, or when one is damaged."""
    settings = _json(folder / "tokenizer_config.json")
    fast, pieces = folder / "tokenizer.json", folder / "tokenizer.model"
    if fast.is_file():
        # BOS comes from the file's own post-processor.
        backend, prefix = _read_tokenizer_json(fast), []
        space_prefix = _prepends_space(backend)
    elif pieces.is_file():
        backend, space_prefix = read_tokenizer_model(pieces)
        _add_configured(backend, settings, _json(folder / "added_tokens.json"))
        bos = _named_id(backend, settings.get("bos_token"))
        prefix = [bos] if settings.get("add_bos_token", True) and bos is not None else []
    else:
        raise FormatError(
            f"{folder}: no tokenizer: neither tokenizer.json nor tokenizer.model is there; "
            "copy one from the original checkpoint"
        )
    eos = _named_id(backend, settings.get("eos_token"))
    return Tokenizer(
        backend,
        bos_token_id=_named_id(backend, settings.get("bos_token")),
        eos_token_ids=[] if eos is None else [eos],
        prefix=prefix,
        space_prefix=space_prefix,
    )


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: can't be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise FormatError(f"{path}: an object was expected, found a {type(data).__name__}")
    return data


def _read_tokenizer_json(path: Path) -> "tokenizers.Tokenizer":
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception
        raise FormatError(f"{path}: can't be read: {error}") from None


def _prepends_space(backend: "tokenizers.Tokenizer") -> bool:
    """Does the normalizer or pre-tokenizer put a space before the text, as Llama 2 does?"""
    states = [part.__getstate__().decode() for part in (backend.normalizer, backend.pre_tokenizer) if part is not None]
    return any('"prepend":"▁"' in state or '"prepend_scheme":"always"' in state for state in states)


def _named_id(backend: "tokenizers.Tokenizer", token: Any) -> int | None:
    """The id of a token given as a string or as an AddedToken object of tokenizer_config.json."""
    name = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(name) if isinstance(name, str) else None


def _add_configured(backend: "tokenizers.Tokenizer", settings: Mapping[str, Any], added: Mapping[str, Any]) -> None:
    """Tokens of ``added_tokens_decoder`` and added_tokens.json, in the order of their ids."""
    from tokenizers import AddedToken

    try:
        decoder = settings.get("added_tokens_decoder") or {}
        listed = {int(id): (str(t["content"]), bool(t.get("special"))) for id, t in decoder.items()}
        listed |= {int(id): (text, False) for text, id in added.items() if int(id) not in listed}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise FormatError(
            "the added tokens of tokenizer_config.json or added_tokens.json can't be understood"
        ) from None
    for expected, (text, special) in sorted(listed.items()):
        token = AddedToken(text, special=special, normalized=False)
        backend.add_special_tokens([token]) if special else backend.add_tokens([token])
        if backend.token_to_id(text) != expected:
            raise FormatError(f"added token {text!r} should have id {expected}, it got {backend.token_to_id(text)}")
