"""llama.cpp's side of a comparison: flash attention off and on, the file's own types and the Q4_0 requantization."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from whimbrel.bench import llama_cpp
from whimbrel.bench.record import ForeignLoad
from whimbrel.bench.side import Scores, Timing

FILE, Q4_0 = "file", "q4_0"
SETTINGS = {f"{weights} fa={fa}": (weights, bool(fa)) for weights in (FILE, Q4_0) for fa in (0, 1)}


class LlamaCppSide:
    """A GGUF file in llama.cpp with each of ``SETTINGS``; both variants of the weights are loaded once."""

    def __init__(self, path: Path, *, threads: int, cache_folder: Path | None = None) -> None:
        """Load the file, and its requantization if there is a ``cache_folder`` to make it in (on first use)."""
        self._threads = threads
        paths = {FILE: path}
        if cache_folder is not None:
            paths[Q4_0] = llama_cpp.requantize(path, cache_folder)
        self._models = {weights: llama_cpp.LlamaModel(path) for weights, path in paths.items()}
        self.settings = tuple(name for name, (weights, _) in SETTINGS.items() if weights in self._models)

    def describe(self) -> Mapping[str, object]:
        """Version, features and batch sizes."""
        return {**llama_cpp.version(), "n_batch": llama_cpp.N_BATCH, "n_ubatch": llama_cpp.N_UBATCH, "kv_dtype": "f16"}

    def warm_up(self, setting: str) -> None:
        """One prompt of two pieces and a few tokens."""
        self.measure(setting, [i % 256 for i in range(600)], 4)

    def measure(self, setting: str, prompt: Sequence[int], decode: int) -> Timing:
        """See ``Side.measure``. The new tokens are given, not chosen, so no sampler's time is counted.

        A fresh context is touched by one full batch before the clock starts: its page faults are no work of the model.
        """
        with self._context(setting, len(prompt) + decode) as context:
            context.feed(prompt[: llama_cpp.N_UBATCH])
            context.clear()
            with ForeignLoad() as foreign:
                start = time.perf_counter()
                context.feed(prompt)
                first = time.perf_counter()
                for token in prompt[:decode]:
                    context.feed((token,))
                end = time.perf_counter()
        return Timing(prefill=first - start, decode=end - first, decoded=decode, foreign_load=foreign.share)

    def measure_at(self, setting: str, depth: int, chunk: int, decode: int) -> Timing:
        """See ``Side.measure_at``."""
        with self._context(setting, depth + chunk + decode) as context:
            context.reach(depth)
            context.feed([1])  # the first step after a restored state sets buffers up
            context.forget(depth)
            with ForeignLoad() as foreign:
                start = time.perf_counter()
                context.feed([i % 256 for i in range(chunk)])
                first = time.perf_counter()
                for token in range(decode):
                    context.feed((token,))
                end = time.perf_counter()
        return Timing(prefill=first - start, decode=end - first, decoded=decode, foreign_load=foreign.share)

    def tokenize(self, text: str) -> list[int]:
        """See ``Side.tokenize``."""
        return self._models[FILE].tokenize(text)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """See ``Side.greedy``."""
        tokens: list[int] = []
        with self._context(f"{FILE} fa=1", len(prompt) + count) as context:
            context.feed(prompt)
            while len(tokens) < count:
                tokens.append(int(context.logits().argmax()))
                context.feed(tokens[-1:])
        return tokens

    def score(self, token_ids: Sequence[int], first: int, top: int) -> Scores:
        """See ``Side.score``."""
        with self._context(f"{FILE} fa=1", len(token_ids)) as context:
            if first > 1:
                context.feed(token_ids[: first - 1])
            logprobs = log_softmax(context.all_logits(token_ids[first - 1 : -1]))
        targets = np.asarray(token_ids[first:])
        return Scores(
            logprobs=tuple(logprobs[np.arange(len(targets)), targets].tolist()),
            top=tuple(likeliest(row, top) for row in logprobs),
        )

    def close(self) -> None:
        """Free the weights."""
        for model in self._models.values():
            model.close()

    @contextmanager
    def _context(self, setting: str, tokens: int) -> Iterator[llama_cpp.LlamaContext]:
        weights, flash_attention = SETTINGS[setting]
        model = self._models[weights]
        with model.context(tokens, threads=self._threads, flash_attention=flash_attention) as context:
            yield context


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Log-probabilities [R, V] of logits [R, V], computed in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def likeliest(logprobs: npt.NDArray[np.float64], count: int) -> tuple[tuple[int, float], ...]:
    """The ``count`` largest of [V] with their indices, best first, the smaller index on ties."""
    if count == 0:
        return ()
    least = np.partition(logprobs, -count)[-count]
    tokens = np.flatnonzero(logprobs >= least)
    order = tokens[np.argsort(-logprobs[tokens], kind="stable")][:count]
    return tuple((int(token), float(logprobs[token])) for token in order)
