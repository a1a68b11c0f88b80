"""llama.cpp, driven through its C interface: the peer that the engine is measured and checked against.

``llama-cpp-python`` (extra ``peers``) carries the library and its ctypes signatures; nothing of its Python layer is
used. A decode step is one C call with one token, so Python never touches the logits while the clock runs.
Names of the C interface: llama.h.
"""

import ctypes
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.bench.llama_state import repeated
from whimbrel.errors import FormatError, MissingExtra, PromptTooLong, WhimbrelError

N_BATCH = 2048
"""Tokens handed over in one call; the library cuts them into pieces of ``N_UBATCH``."""
N_UBATCH = 512
"""Rows of one matrix product: the library's own default, and its fastest here."""
FTYPE_Q4_0 = 2
"""LLAMA_FTYPE_MOSTLY_Q4_0: the type with the library's fastest kernels."""

Logits = npt.NDArray[np.float32]


@cache
def binding() -> Any:
    """The ctypes module, with the backend started and the log silenced. Raises ``MissingExtra``."""
    try:
        module: Any = import_module("llama_cpp")
    except ImportError as error:
        raise MissingExtra(
            "llama.cpp was asked for and llama-cpp-python is not installed; "
            "run `python -m whimbrel.bench.peer_build`, which compiles it for this processor"
        ) from error
    module.llama_log_set(_silent(module), None)
    module.llama_backend_init()
    return module


@cache
def _silent(module: Any) -> Any:
    """A log callback that drops everything; cached because the library keeps calling it."""
    return module.llama_log_callback(lambda level, text, user_data: None)


def version() -> dict[str, str]:
    """Version of the binding, of the library, and the features it was compiled with."""
    llama = binding()
    return {
        "name": "llama.cpp",
        "binding": f"llama-cpp-python {llama.__version__}",
        "library": llama.llama_version().decode() if hasattr(llama, "llama_version") else "unknown",
        "features": llama.llama_print_system_info().decode().strip().strip("|").strip(),
    }


def requantize(source: Path, folder: Path) -> Path:
    """``source`` with its matrices rounded to Q4_0, made once and kept in ``folder`` under the source's identity.

    The matrices are requantized from whatever type they have, the head included as the library chooses. Returns the new
    file. Raises ``WhimbrelError`` if the library refuses.
    """
    status = source.stat()
    key = hashlib.sha256(f"{source.resolve()}|{status.st_size}|{status.st_mtime_ns}".encode()).hexdigest()[:16]
    target = folder / f"{source.stem}-{key}-requantized-q4_0.gguf"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    llama = binding()
    options = llama.llama_model_quantize_default_params()
    options.ftype = FTYPE_Q4_0
    options.allow_requantize = True
    part = target.with_suffix(".part")
    code = llama.llama_model_quantize(str(source).encode(), str(part).encode(), ctypes.byref(options))
    if code != 0:
        part.unlink(missing_ok=True)
        raise WhimbrelError(f"{source}: llama.cpp could not requantize it to Q4_0 (code {code})")
    part.replace(target)
    return target


class LlamaModel:
    """A GGUF file in llama.cpp."""

    def __init__(self, path: Path) -> None:
        """Load into memory, so that no page fault is timed. Raises ``FormatError`` if the library refuses the file."""
        self._llama = binding()
        options = self._llama.llama_model_default_params()
        options.use_mmap = False
        self._model = self._llama.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise FormatError(f"{path}: llama.cpp could not load it")
        self._vocab = self._llama.llama_model_get_vocab(self._model)
        self.vocab_size: int = self._llama.llama_vocab_n_tokens(self._vocab)
        self.bos_token_id: int = self._llama.llama_vocab_bos(self._vocab)
        self.adds_bos: bool = self._llama.llama_vocab_get_add_bos(self._vocab)

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of a text."""
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        count = self._llama.llama_tokenize(self._vocab, data, len(data), ids, len(ids), add_special, parse_special)
        assert count >= 0, "a byte-level vocabulary never needs more tokens than there are bytes"
        return list(ids[:count])

    @contextmanager
    def context(self, max_tokens: int, *, threads: int, flash_attention: bool) -> Iterator["LlamaContext"]:
        """A cache for ``max_tokens`` and the threads to fill it; freed at the end of the ``with`` body."""
        options = self._llama.llama_context_default_params()
        options.n_ctx = max_tokens
        options.n_batch = N_BATCH
        options.n_ubatch = N_UBATCH
        options.n_threads = options.n_threads_batch = threads
        options.flash_attn_type = int(flash_attention)
        options.no_perf = True
        handle = self._llama.llama_init_from_model(self._model, options)
        if not handle:
            raise WhimbrelError(f"llama.cpp could not make a context of {max_tokens} tokens")
        try:
            yield LlamaContext(handle, self.vocab_size, max_tokens)
        finally:
            self._llama.llama_free(handle)

    def close(self) -> None:
        """Free the weights. Idempotent."""
        if self._model:
            self._llama.llama_model_free(self._model)
            self._model = None


class LlamaContext:
    """One sequence in llama.cpp, growing from the end."""

    def __init__(self, handle: Any, vocab_size: int, max_tokens: int) -> None:
        """Made by ``LlamaModel.context``."""
        self._llama = binding()
        self._handle = handle
        self._vocab_size = vocab_size
        self._max_tokens = max_tokens
        self.length = 0

    def clear(self) -> None:
        """Forget all tokens."""
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._handle), True)
        self.length = 0

    def feed(self, token_ids: Sequence[int]) -> None:
        """Compute the tokens after those that are there, and wait for the result (logits of the last one).

        Raises ``PromptTooLong``, and ``WhimbrelError`` if the library fails.
        """
        if self.length + len(token_ids) > self._max_tokens:
            raise PromptTooLong(f"{self.length + len(token_ids)} tokens in a context of {self._max_tokens}")
        ids = (ctypes.c_int32 * len(token_ids))(*token_ids)
        for start in range(0, len(ids), N_BATCH):
            count = min(N_BATCH, len(ids) - start)
            piece = ctypes.cast(ctypes.byref(ids, 4 * start), ctypes.POINTER(ctypes.c_int32))
            self._decode(self._llama.llama_batch_get_one(piece, count))
        self._llama.llama_synchronize(self._handle)
        self.length += len(token_ids)

    def reach(self, depth: int) -> None:
        """A sequence of ``depth`` tokens (a multiple of ``N_UBATCH``), most of them copies of the first ones.

        For measurements only: the keys and values are repeated, not computed. Raises ``FormatError`` and
        ``WhimbrelError`` where the library's saved state is not as ``llama_state`` knows it.
        """
        self.clear()
        times, rest = divmod(depth, N_UBATCH)
        assert not rest, "depths are multiples of a piece"
        if times:
            self.feed([i % 256 for i in range(N_UBATCH)])
        if times > 1:
            self._restore(repeated(self._save(), N_UBATCH, times))
        self.length = depth

    def forget(self, length: int) -> None:
        """Drop the tokens from ``length`` on."""
        self._llama.llama_memory_seq_rm(self._llama.llama_get_memory(self._handle), 0, length, -1)
        self.length = length

    def _save(self) -> bytes:
        size = self._llama.llama_state_seq_get_size(self._handle, 0)
        buffer = (ctypes.c_uint8 * size)()
        written = self._llama.llama_state_seq_get_data(self._handle, buffer, size, 0)
        return bytes(buffer)[:written]

    def _restore(self, state: bytearray) -> None:
        self.clear()
        buffer = (ctypes.c_uint8 * len(state)).from_buffer(state)
        if self._llama.llama_state_seq_set_data(self._handle, buffer, len(state), 0) != len(state):
            raise WhimbrelError("llama.cpp refused a saved sequence that was made longer")

    def logits(self) -> Logits:
        """A copy of the logits ``[V]`` after the last token."""
        row = self._llama.llama_get_logits_ith(self._handle, -1)
        return np.ctypeslib.as_array(row, shape=(self._vocab_size,)).copy()

    def all_logits(self, token_ids: Sequence[int], *, first: int = 0) -> Logits:
        """Feed tokens and return the logits ``[len(token_ids) - first, V]`` after each of them from ``first`` on.

        At most ``N_BATCH`` tokens, all in one call.
        """
        count = len(token_ids)
        assert count <= N_BATCH
        batch = self._llama.llama_batch_init(count, 0, 1)
        try:
            batch.n_tokens = count
            for row, token_id in enumerate(token_ids):
                batch.token[row] = token_id
                batch.pos[row] = self.length + row
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = 0
                batch.logits[row] = row >= first
            self._decode(batch)
            self._llama.llama_synchronize(self._handle)
        finally:
            self._llama.llama_batch_free(batch)
        self.length += count
        rows = self._llama.llama_get_logits(self._handle)
        return np.ctypeslib.as_array(rows, shape=(count - first, self._vocab_size)).copy()

    def _decode(self, batch: Any) -> None:
        code = self._llama.llama_decode(self._handle, batch)
        if code != 0:
            raise WhimbrelError(f"llama.cpp's llama_decode returned {code} after {self.length} tokens")
