"""Tokenizer: text to ids and back, over the ``tokenizers`` library.

Built from ``tokenizer.json`` or ``tokenizer.model`` of a Hugging Face folder, or from the vocabulary inside a GGUF
file. Two kinds cover every model here:

- *byte-level BPE* (GPT-2, Llama 3, SmolLM2, Qwen): text is cut by regular expressions, every byte has a printable
  stand-in, merges join them. A GGUF file names its regular expressions by one word, ``tokenizer.ggml.pre``;
- *SentencePiece BPE* (Llama 2, MiniCPM4): spaces become ``▁``, pieces join in the order of their scores, bytes that
  no piece covers become tokens like ``<0x0A>``.

Ids are exact, text is bytes: ``token_bytes`` gives the bytes of any token, and a character may span several.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whimbrel.errors import InvalidParameter

if TYPE_CHECKING:
    import tokenizers


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
        from whimbrel.models.tokenizer_folder import from_folder

        return from_folder(folder)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """From the ``tokenizer.ggml`` keys of a GGUF file; raises ``FormatError`` and ``UnsupportedModel``."""
        from whimbrel.models.tokenizer_gguf import from_gguf

        return from_gguf(metadata)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id; added tokens may leave a hole behind the vocabulary."""
        return max(self._backend.get_vocab_size(with_added_tokens=True), max(self._added, default=-1) + 1)

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

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of a text, no control tokens among them, and the character of the text where each begins.

        Several tokens of one character begin at the same place. Raises ``InvalidParameter`` as ``encode`` does.
        """
        try:
            with self._lock:
                self._backend.encode_special_tokens = True
                # Of the library's ways in, this one lets other threads run: a long document takes seconds.
                encoding = self._backend.encode_batch([text], add_special_tokens=False)[0]
        except (TypeError, UnicodeEncodeError):
            _check_unicode(text)
            raise
        return list(encoding.ids), [start for start, _ in encoding.offsets]

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
        """Bytes of tokens, filled on demand."""
        return [None] * self.vocab_size

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
