"""Tokenizer: text to ids and back, over the ``tokenizers`` library.

Built from ``tokenizer.json`` or ``tokenizer.model`` of a Hugging Face folder, or from the vocabulary inside a GGUF
file. Two kinds cover every model here:

- *byte-level BPE* (GPT-2, Llama 3, SmolLM2, Qwen): text is cut by regular expressions, every byte has a printable
  stand-in, merges join them. A GGUF file names its regular expressions by one word, ``tokenizer.ggml.pre``;
- *SentencePiece BPE* (Llama 2, MiniCPM4): spaces become ``▁``, pieces join in the order of their scores, bytes that
  no piece covers become tokens like ``<0x0A>``.

Ids are exact, text is bytes: ``token_bytes`` gives the bytes of any token, and a character may span several.
"""

import json
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whimbrel.errors import FormatError, InvalidParameter, UnsupportedModel

if TYPE_CHECKING:
    import tokenizers

_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _modern_split(digits: str) -> str:
    """The expression of the tiktoken family, with its rule for digits."""
    contractions = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    return rf"{contractions}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


_SPLITS: dict[str, tuple[str, ...]] = {
    "gpt2": (_GPT2_SPLIT,),
    "digits": (r"\p{N}", _GPT2_SPLIT),
    "llama3": (_modern_split(r"\p{N}{1,3}"),),
    "qwen2": (_modern_split(r"\p{N}"),),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2_SPLIT, r"[0-9][0-9][0-9]"),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2_SPLIT, r"\p{N}+", r"[0-9][0-9][0-9]"),
}
"""Applied one after the other; what a pattern does not match stays a piece of its own."""

_PRE_TYPES = {
    "default": "default",
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "mellum"), "gpt2"),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), "digits"),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2", "dbrx", "smaug-bpe"), "llama3"),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"), "qwen2"),
    "falcon": "falcon",
}
_WHOLE_WORDS_FIRST = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2"})
"""Pre-tokenizers whose models take a word that is in the vocabulary without merging, and add BOS by default."""

_END_OF_GENERATION = frozenset(
    {
        "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|end_of_text|>",
        "<EOT>", "< EOT >", "_<EOT>", "<|EOT|>", "<｜end▁of▁sentence｜>",
    }
)  # fmt: skip
"""Control tokens that end an answer whatever the metadata says."""

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6


class Tokenizer:
    """Text to ids and back. Use ``from_folder`` or ``from_gguf``; thread-safe."""

    def __init__(
        self,
        backend: "tokenizers.Tokenizer",
        *,
        bos_token_id: int | None = None,
        eos_token_ids: Iterable[int] = (),
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
        space_prefix: bool = False,
    ) -> None:
        """``prefix`` and ``suffix`` go around every text where the backend has no post-processor that does it.

        ``space_prefix``: the backend puts a space before the text, which ``decode`` takes away again.
        """
        self._backend = backend
        self._lock = threading.Lock()
        self._prefix, self._suffix = list(prefix), list(suffix)
        self._space_prefix = space_prefix
        self.bos_token_id = bos_token_id
        self.eos_token_ids = tuple(dict.fromkeys(eos_token_ids))

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """From ``tokenizer.json`` or ``tokenizer.model``, with what ``tokenizer_config.json`` adds.

        Raises ``FormatError`` when there is neither, or when one is damaged.
        """
        return _from_folder(folder)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """From the ``tokenizer.ggml`` keys of a GGUF file; raises ``FormatError`` and ``UnsupportedModel``."""
        return _from_gguf(metadata)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of a text. ``add_special`` adds what the model expects around one (BOS); ``parse_special`` lets the
        text name control tokens such as ``<|im_start|>``, which otherwise are ordinary characters.

        Raises ``InvalidParameter`` for text that is not valid Unicode (a lone surrogate).
        """
        try:
            with self._lock:
                self._backend.encode_special_tokens = not parse_special
                ids = list(self._backend.encode(text, add_special_tokens=add_special).ids)
        except (TypeError, UnicodeEncodeError):
            _check_unicode(text)
            raise
        return [*self._prefix, *ids, *self._suffix] if add_special else ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD. ``skip_special`` leaves control tokens out."""
        special = self.special_ids
        tokens = [id for id in ids if not (skip_special and id in special)]
        parts = [self.token_bytes(id) for id in tokens]
        if self._space_prefix:
            first = next((i for i, id in enumerate(tokens) if id not in special), None)
            if first is not None:
                parts[first] = parts[first].removeprefix(b" ")
        return b"".join(parts).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; control tokens give their name. Raises ``InvalidParameter``."""
        if not 0 <= token_id < len(self._bytes):
            raise InvalidParameter(f"token id {token_id} is outside of the vocabulary of {len(self._bytes)}")
        found = self._bytes[token_id]
        if found is None:
            found = self._bytes[token_id] = self._to_bytes(token_id)
        return found

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name in the vocabulary, or None."""
        return self._backend.token_to_id(token)

    def token_name(self, token_id: int) -> str | None:
        """The name of a token in the vocabulary, or None."""
        return self._backend.id_to_token(token_id)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of control tokens."""
        return frozenset(id for id, token in self._added.items() if token.special)

    @cached_property
    def _added(self) -> dict[int, "tokenizers.AddedToken"]:
        return dict(self._backend.get_added_tokens_decoder())

    @cached_property
    def _bytes(self) -> list[bytes | None]:
        """Bytes of tokens, filled on demand; ids may have holes, so the list is as long as the largest."""
        size = max(self.vocab_size, max(self._added, default=-1) + 1)
        return [None] * size

    @cached_property
    def _byte_level(self) -> bool:
        from tokenizers import decoders

        decoder = self._backend.decoder
        if isinstance(decoder, decoders.ByteLevel):
            return True
        return decoder is not None and '"ByteLevel"' in decoder.__getstate__().decode()

    def _to_bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].content.encode()
        name = self._backend.id_to_token(token_id)
        if name is None:
            return b""
        if self._byte_level:
            try:
                return bytes(_BYTE_OF[char] for char in name)
            except KeyError:
                return name.encode()
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes.fromhex(name[3:5])
        return name.replace("▁", " ").encode()


def _check_unicode(text: str) -> None:
    """Raise where a text has a lone surrogate; the library only says that it wants a str."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidParameter(
            f"the text is not valid Unicode at character {error.start}; was it read from a file that is not UTF-8?"
        ) from None


def _stand_ins() -> dict[str, int]:
    """GPT-2's printable character of every byte: itself where it prints, else the next free one from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_BYTE_OF = _stand_ins()


# GGUF.


def _from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    types = list(metadata.get("tokenizer.ggml.token_type", ()))
    if types and len(types) != len(tokens):
        raise FormatError(f"GGUF tokenizer: {len(tokens)} tokens but {len(types)} token types; the file is corrupt")
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        backend, add_bos = _gguf_bpe(metadata, tokens)
        space_prefix = False
    elif kind == "llama":
        scores = [float(score) for score in metadata.get("tokenizer.ggml.scores", ())]
        space_prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
        backend = _sentencepiece(tokens, scores, types, space_prefix)
        add_bos = True
    else:
        raise UnsupportedModel(f"GGUF tokenizer {kind!r} is not supported; this build reads gpt2 and llama")
    _add_tokens(backend, tokens, types)
    bos, eos = (_gguf_id(metadata, key, len(tokens)) for key in ("bos_token_id", "eos_token_id"))
    eot = _gguf_id(metadata, "eot_token_id", len(tokens))
    add_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", add_bos)) and bos is not None
    add_eos = bool(metadata.get("tokenizer.ggml.add_eos_token", False)) and eos is not None
    named = (i for i, type in enumerate(types) if type == _CONTROL and tokens[i] in _END_OF_GENERATION)
    return Tokenizer(
        backend,
        bos_token_id=bos,
        eos_token_ids=[id for id in (eos, eot, *named) if id is not None],
        prefix=[bos] if add_bos and bos is not None else [],
        suffix=[eos] if add_eos and eos is not None else [],
        space_prefix=space_prefix,
    )


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    value = metadata.get(key)
    strings = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if not strings or not all(isinstance(item, str) for item in strings[:1]):
        raise FormatError(f"GGUF tokenizer: {key} is missing; convert the model again with its tokenizer")
    return strings


def _gguf_id(metadata: Mapping[str, Any], key: str, size: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < size:
        raise FormatError(f"GGUF tokenizer: {key} is {value!r}, outside of the vocabulary of {size}")
    return value


def _gguf_bpe(metadata: Mapping[str, Any], tokens: list[str]) -> tuple["tokenizers.Tokenizer", bool]:
    """The byte-level tokenizer, and whether its kind adds BOS unless told otherwise."""
    from tokenizers import decoders, models, pre_tokenizers

    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in _PRE_TYPES:
        raise UnsupportedModel(f"GGUF pre-tokenizer {pre!r} is not supported; this build knows {', '.join(_PRE_TYPES)}")
    merges = [_merge(text) for text in _strings(metadata, "tokenizer.ggml.merges")]
    whole = pre in _WHOLE_WORDS_FIRST
    backend = _build(models.BPE, vocab=_vocabulary(tokens), merges=merges, ignore_merges=whole)
    backend.pre_tokenizer = pre_tokenizers.Sequence(_splitters(_SPLITS[_PRE_TYPES[pre]]))
    backend.decoder = decoders.ByteLevel()
    return backend, whole


def _splitters(patterns: tuple[str, ...]) -> list[Any]:
    from tokenizers import Regex, pre_tokenizers

    # The library's own GPT-2 expression is the same and faster than one through Split.
    builtin = patterns[-1] == _GPT2_SPLIT
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in (patterns[:-1] if builtin else patterns)]
    return [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=builtin)]


def _merge(text: str) -> tuple[str, str]:
    left, _, right = text.partition(" ")
    if not left or not right:
        raise FormatError(f"GGUF tokenizer: merge {text!r} is not two tokens; the file is corrupt")
    return left, right


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    vocabulary = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(vocabulary) < len(tokens):
        twice = next(token for index, token in enumerate(tokens) if vocabulary[token] != index)
        raise FormatError(f"tokenizer: {twice!r} is in the vocabulary twice; the file is corrupt")
    return vocabulary


def _build(model: Any, **arguments: Any) -> "tokenizers.Tokenizer":
    import tokenizers

    try:
        return tokenizers.Tokenizer(model(**arguments))
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception
        raise FormatError(f"tokenizer: {error}; the vocabulary is corrupt") from None


def _add_tokens(backend: "tokenizers.Tokenizer", tokens: list[str], types: Sequence[int]) -> None:
    from tokenizers import AddedToken

    marked = [(tokens[i], type) for i, type in enumerate(types) if type in (_UNKNOWN, _CONTROL, _USER_DEFINED)]
    for special in (True, False):
        group = [text for text, type in marked if (type != _USER_DEFINED) == special and text]
        added = [AddedToken(text, special=special, normalized=False) for text in group]
        backend.add_special_tokens(added) if special else backend.add_tokens(added)


# SentencePiece.


def _sentencepiece(
    tokens: list[str], scores: list[float], types: Sequence[int], space_prefix: bool
) -> "tokenizers.Tokenizer":
    """A BPE that joins pieces in the order of their scores, with bytes for what no piece covers."""
    from tokenizers import models, normalizers

    if len(scores) != len(tokens):
        raise FormatError(f"tokenizer: {len(tokens)} pieces but {len(scores)} scores; the file is corrupt")
    vocabulary = _vocabulary(tokens)
    unknown = next((tokens[i] for i, type in enumerate(types) if type == _UNKNOWN), None)
    merges = _merges_by_score(vocabulary, scores, types)
    backend = _build(models.BPE, vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    steps: list[Any] = [normalizers.Prepend("▁")] if space_prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    return backend


def _merges_by_score(
    vocabulary: Mapping[str, int], scores: Sequence[float], types: Sequence[int]
) -> list[tuple[str, str]]:
    """Every way to make a piece of two others; best score first, then by the parts' ids."""
    joinable = (1, _USER_DEFINED)
    ranked = []
    for piece, index in vocabulary.items():
        if types and types[index] not in joinable:
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-scores[index], vocabulary[left], vocabulary[right], left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


# Folders.


def _from_folder(folder: Path) -> Tokenizer:
    settings = _json(folder / "tokenizer_config.json")
    fast, pieces = folder / "tokenizer.json", folder / "tokenizer.model"
    if fast.is_file():
        backend, prefix, space_prefix = _read_tokenizer_json(fast), [], False
        space_prefix = _prepends_space(fast)
    elif pieces.is_file():
        backend, space_prefix = _read_tokenizer_model(pieces)
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


def _prepends_space(path: Path) -> bool:
    """Does the normalizer or pre-tokenizer put a space before the text, as Llama 2 does?"""
    text = path.read_text(encoding="utf-8")
    head = text[: text.find('"model"')] if '"model"' in text else text
    compact = "".join(head.split())
    return '"type":"Prepend","prepend":"▁"' in compact or '"prepend_scheme":"always"' in compact


def _named_id(backend: "tokenizers.Tokenizer", token: Any) -> int | None:
    """The id of a token given as a string or as an AddedToken object of tokenizer_config.json."""
    name = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(name) if isinstance(name, str) else None


def _add_configured(backend: "tokenizers.Tokenizer", settings: Mapping[str, Any], added: Mapping[str, Any]) -> None:
    """Tokens of ``added_tokens_decoder`` and added_tokens.json, in the order of their ids."""
    from tokenizers import AddedToken

    decoder = settings.get("added_tokens_decoder", {})
    listed = {int(id): (str(t["content"]), bool(t.get("special"))) for id, t in decoder.items()}
    listed |= {int(id): (text, False) for text, id in added.items() if int(id) not in listed}
    for expected, (text, special) in sorted(listed.items()):
        token = AddedToken(text, special=special, normalized=False)
        backend.add_special_tokens([token]) if special else backend.add_tokens([token])
        if backend.token_to_id(text) != expected:
            raise FormatError(f"added token {text!r} should have id {expected}, it got {backend.token_to_id(text)}")


def _read_tokenizer_model(path: Path) -> tuple["tokenizers.Tokenizer", bool]:
    """A SentencePiece model file (protobuf): the tokenizer, and whether it puts a space before the text."""
    from tokenizers import normalizers

    try:
        model = _ModelProto(path.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise FormatError(f"{path}: is no SentencePiece model, or damaged: {error}") from None
    if model.kind != 2:
        raise UnsupportedModel(f"{path}: SentencePiece model type {model.kind} is not supported, only BPE (2)")
    backend = _sentencepiece(model.pieces, model.scores, model.types, model.space_prefix)
    if model.charsmap and backend.normalizer is not None:
        backend.normalizer = normalizers.Sequence([normalizers.Precompiled(model.charsmap), backend.normalizer])
    _add_tokens(backend, model.pieces, model.types)
    return backend, model.space_prefix


class _ModelProto:
    """The fields of SentencePiece's ModelProto that matter here (sentencepiece_model.proto)."""

    def __init__(self, data: bytes) -> None:
        self.pieces: list[str] = []
        self.scores: list[float] = []
        self.types: list[int] = []
        self.kind, self.charsmap, self.space_prefix = 1, b"", True
        for number, value in _fields(data):
            if number == 1 and isinstance(value, bytes):
                fields = dict(_fields(value))
                self.pieces.append(bytes(fields.get(1, b"")).decode("utf-8"))
                self.scores.append(struct.unpack("<f", fields.get(2, bytes(4)))[0])
                self.types.append(int(fields.get(3, 1)))
            elif number == 2 and isinstance(value, bytes):
                self.kind = int(dict(_fields(value)).get(3, 1))
            elif number == 3 and isinstance(value, bytes):
                fields = dict(_fields(value))
                self.charsmap, self.space_prefix = bytes(fields.get(2, b"")), bool(fields.get(3, 1))
        if not self.pieces:
            raise ValueError("it has no pieces")


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protobuf message: int for varints, bytes for the rest."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if size > len(data) - at:
            raise ValueError(f"a field at byte {at} is longer than the file")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number at byte {at} has no end")
