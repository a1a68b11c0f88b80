"""Our side of a comparison: the native engine as everyone gets it, scheduler and sampling included."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from whimbrel.attention.inputs import BLOCK_SIZE
from whimbrel.attention.sparse import SparseConfig
from whimbrel.bench.bandwidth import MEMORY_BYTES, read_bandwidth
from whimbrel.bench.record import ForeignLoad, peak_memory
from whimbrel.bench.side import DENSE, SPARSE, Scores, Timing
from whimbrel.engine import Engine
from whimbrel.engine.request import Request, SamplingParams, StepOutput
from whimbrel.engine.store import bytes_per_block
from whimbrel.errors import UnsupportedCapability
from whimbrel.formats.packed import PackedTensor
from whimbrel.models.config import ModelConfig
from whimbrel.models.loading import load_model
from whimbrel.models.params import Params
from whimbrel.ops.dispatch import bind

WARM_UP = 600
"""Tokens of the warm-up: more than one chunk of a prompt."""


class EngineSide:
    """The engine with one sequence at a time and no memory of earlier prompts; a setting is a way to attend."""

    settings = (DENSE, SPARSE)

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        max_context: int = 2048,
        weights: str | None = None,
        kv_dtype: str = "bf16",
        implementation: str = "native",
    ) -> None:
        """Load the model; raises as ``load_model``, ``bind`` and ``Engine`` do."""
        self._model = load_model(path, weights=weights)
        self._options: dict[str, Any] = {
            "ops": bind(implementation),
            "max_context": max(max_context, WARM_UP + 8),
            "max_sequences": 1,
            "kv_dtype": kv_dtype,
            "prefix_sharing": False,
            "threads": threads,
        }
        self._setting = ""
        self._engine: Engine
        self._engine_for(DENSE)

    def describe(self) -> Mapping[str, object]:
        """Peak memory so far, bytes that decoding one token reads, and how fast the engine's threads can read."""
        peak = peak_memory()  # before the buffer of the read test
        config = self._engine.config
        block = bytes_per_block(
            config.num_hidden_layers, config.num_key_value_heads, config.head_dim, self._engine.kv_dtype
        )
        sparse = config.sparse or SparseConfig()
        weights = weight_bytes(self._model.params)
        return {
            "kv_dtype": self._engine.kv_dtype,
            "peak_memory_bytes": peak,
            "weight_bytes_per_token": weights,
            "kv_bytes_per_token_of_context": block // BLOCK_SIZE,
            "sparse_tokens": sparse.num_blocks * sparse.block_size,
            "kernel_bytes_per_token_of_context": kernel_bytes(config, sparse),
            "read_bandwidth": read_bandwidth(MEMORY_BYTES),
            "read_bandwidth_of_weights": read_bandwidth(weights),
        }

    def warm_up(self, setting: str) -> None:
        """One prompt of two chunks and a few tokens."""
        self.measure(setting, [i % 256 for i in range(WARM_UP)], 4)

    def measure_at(self, setting: str, depth: int, chunk: int, decode: int) -> Timing:
        """Nobody asks: our side always reads whole prompts."""
        raise UnsupportedCapability("the engine reads whole prompts; measure_at is for the peer")

    def measure(self, setting: str, prompt: Sequence[int], decode: int) -> Timing:
        """See ``Side.measure``. A decode step is the engine's whole step: plan, run, choose the token, commit."""
        self._engine_for(setting)
        with ForeignLoad() as foreign:
            start = time.perf_counter()
            steps = self._steps(prompt, SamplingParams(max_tokens=decode + 1, ignore_eos=True))
            for step in steps:
                if step.token_ids:
                    break
            first = time.perf_counter()
            for _ in steps:
                pass
            end = time.perf_counter()
        return Timing(prefill=first - start, decode=end - first, decoded=decode, foreign_load=foreign.share)

    def tokenize(self, text: str) -> list[int]:
        """See ``Side.tokenize``."""
        return self._model.tokenizer.encode(text, add_special=False)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """See ``Side.greedy``."""
        self._engine_for(DENSE)
        return [
            token
            for step in self._steps(prompt, SamplingParams(max_tokens=count, ignore_eos=True))
            for token in step.token_ids
        ]

    def score(self, token_ids: Sequence[int], first: int, top: int) -> Scores:
        """See ``Side.score``."""
        self._engine_for(DENSE)
        steps = self._steps(token_ids, SamplingParams(max_tokens=0, prompt_logprobs=top))
        found = [logprob for step in steps for logprob in step.prompt_logprobs][first - 1 :]
        return Scores(logprobs=tuple(one.logprob for one in found), top=tuple(one.top for one in found))

    def close(self) -> None:
        """Nothing outlives the process."""

    def _engine_for(self, setting: str) -> None:
        """Let the engine be one that attends that way; there is one at a time, since each has a cache."""
        if setting != self._setting:
            config = self._model.config
            sparse = None if setting == DENSE else config.sparse or SparseConfig()
            self._engine = Engine(replace(self._model, config=replace(config, sparse=sparse)), **self._options)
            self._setting = setting

    def _steps(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[StepOutput]:
        """Steps of one request; raises the engine's error if it ends with one."""
        self._engine.add(Request(token_ids=tuple(prompt), params=params))
        while outputs := self._engine.step():
            for output in outputs:
                if output.error is not None:
                    raise output.error
                yield output


def kernel_bytes(config: ModelConfig, sparse: SparseConfig) -> float:
    """Bytes of semantic kernels for each token of context: 8-bit codes, padded to 64, and a scale."""
    padded = -(-config.head_dim // 64) * 64
    return config.num_hidden_layers * config.num_key_value_heads * (padded + 4) / sparse.kernel_stride


def weight_bytes(params: Params) -> int:
    """Bytes of weights that one decode step reads: all matrices of all layers, and the head.

    Of the embedding one row is read (nothing, here) unless it is the head too. Norms and biases don't matter.
    """
    matrices = [getattr(layer, field.name) for layer in params.layers for field in fields(layer)]
    return sum(matrix.nbytes for matrix in [*matrices, params.lm_head] if isinstance(matrix, PackedTensor))
