"""From a plan to logits: the batch's arrays, one forward pass, and the rows that are needed of the head.

Shapes: T rows of S sequences, V vocabulary. Between two decode steps of the same sequences only the values of the
arrays change, so they are kept and updated in place.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.attention.inputs import AttentionInputs
from whimbrel.engine.cache import PagedCache
from whimbrel.engine.pooling import rms_normed
from whimbrel.engine.request import Sequence, TokenLogprob
from whimbrel.engine.sampling import token_logprobs
from whimbrel.engine.scheduler import StepPlan, Work
from whimbrel.engine.store import to_numpy
from whimbrel.models import decoder
from whimbrel.models.config import ModelConfig
from whimbrel.models.params import Params
from whimbrel.ops.table import OpTable

SCORE_ROWS = 64
"""Rows whose logits exist at a time when a prompt is scored: 64 x 73,448 fp32 are 19 MB."""


@dataclass(slots=True)
class StepLogits:
    """What a forward pass leaves: logits for the next tokens, and log-probabilities of prompt tokens."""

    rows: npt.NDArray[np.float32]
    """[R, V], one row for each work that reaches its sequence's end, in order"""
    prompt: dict[int, list[TokenLogprob]]
    """sequence id -> log-probabilities of its prompt tokens that this step allowed to be scored"""


class Runner:
    """The network bound to ops, rotary table and cache."""

    def __init__(self, params: Params, config: ModelConfig, ops: OpTable, rope: Any, cache: PagedCache) -> None:
        """``rope`` covers every position of the context."""
        self._params = params
        self._config = config
        self._ops = ops
        self._rope = rope
        self._cache = cache
        self._batch: list[Sequence] = []
        self._slots: list[int] = []
        self._inputs: AttentionInputs | None = None

    def run(self, plan: StepPlan) -> StepLogits:
        """One forward pass. The cache holds the plan's tokens afterwards; sequences are unchanged."""
        inputs = self._decode_inputs(plan) or self._new_inputs(plan)
        hidden = decoder.forward(self._params, self._config, self._ops, self._rope, inputs, self._cache)
        if inputs.block_mass is not None:
            _collect_mass(plan, inputs.block_mass)
        prompt = self._score_prompts(plan, hidden)
        self._pool_prompts(plan, hidden)
        return StepLogits(self._head(plan, hidden), prompt)

    def _new_inputs(self, plan: StepPlan) -> AttentionInputs:
        """Arrays for any plan."""
        works = plan.works
        sequences = [work.sequence for work in works]
        ids: list[int] = []
        for work in works:
            start = work.sequence.computed
            ids += work.sequence.tokens[start : start + work.count]
        counts = [work.count for work in works]
        positions = [np.arange(work.sequence.computed, work.sequence.computed + work.count) for work in works]
        inputs = AttentionInputs(
            token_ids=np.array(ids, np.int32),
            positions=np.concatenate(positions, dtype=np.int32, casting="same_kind"),
            cu_seqlens=np.cumsum([0, *counts], dtype=np.int32),
            kv_lengths=np.array([work.sequence.computed + work.count for work in works], np.int32),
            block_tables=self._tables(sequences),
            block_mass=self._new_mass(sequences),
        )
        decodes = plan.num_tokens == len(works)
        self._batch, self._inputs = (sequences, inputs) if decodes else ([], None)
        self._slots = [sequence.slot for sequence in sequences]
        return inputs

    def _decode_inputs(self, plan: StepPlan) -> AttentionInputs | None:
        """Last step's arrays with new values, if the same sequences decode again."""
        works, inputs = plan.works, self._inputs
        if inputs is None or len(works) != len(self._batch):
            return None
        for row, work in enumerate(works):
            sequence = work.sequence
            if sequence is not self._batch[row] or sequence.slot != self._slots[row] or work.count != 1:
                return None
            inputs.token_ids[row] = sequence.tokens[sequence.computed]
            inputs.positions[row] = sequence.computed
            inputs.kv_lengths[row] = sequence.computed + 1
        if len(works) > 1:
            inputs.block_tables[:] = self._tables(self._batch)
        return inputs

    def _new_mass(self, sequences: list[Sequence]) -> npt.NDArray[np.float32] | None:
        """Room for the attention that blocks get in a step, [S, G, max_blocks], if a sequence wants it."""
        if all(sequence.mass is None for sequence in sequences):
            return None
        heads, blocks = self._cache.num_key_value_heads, self._cache.tables.shape[1]
        return np.zeros((len(sequences), heads, blocks), np.float32)

    def _tables(self, sequences: list[Sequence]) -> npt.NDArray[np.int32]:
        """[S, max_blocks]; of one sequence the cache's own row, without a copy."""
        tables = self._cache.tables
        if len(sequences) == 1:
            return tables[sequences[0].slot : sequences[0].slot + 1]
        return tables[[sequence.slot for sequence in sequences]]

    def _head(self, plan: StepPlan, hidden: Any) -> npt.NDArray[np.float32]:
        """Logits [R, V] of the last rows of all works that reach their sequence's end."""
        rows, last = [], -1
        for work in plan.works:
            last += work.count
            if work.reaches_end:
                rows.append(last)
        if not rows:
            return np.empty((0, self._config.vocab_size), np.float32)
        chosen = hidden if len(rows) == last + 1 else hidden[rows]
        logits: npt.NDArray[np.float32] = to_numpy(self._logits(chosen))
        return logits

    def _score_prompts(self, plan: StepPlan, hidden: Any) -> dict[int, list[TokenLogprob]]:
        """Log-probabilities of prompt tokens whose predecessor is in this step, a few rows of the head at a time."""
        scores = {}
        first = 0
        for work in plan.works:
            sequence = work.sequence
            if sequence.params.prompt_logprobs is not None and sequence.scored < sequence.prompt_length:
                scores[sequence.id] = self._score_prompt(work, hidden, first)
            first += work.count
        return scores

    def _score_prompt(self, work: Work, hidden: Any, first: int) -> list[TokenLogprob]:
        sequence, scores = work.sequence, list[TokenLogprob]()
        assert sequence.params.prompt_logprobs is not None
        end = min(sequence.computed + work.count + 1, sequence.prompt_length)
        for start in range(sequence.scored, end, SCORE_ROWS):
            targets = sequence.tokens[start : min(start + SCORE_ROWS, end)]
            row = first + start - 1 - sequence.computed
            logits = to_numpy(self._logits(hidden[row : row + len(targets)]))
            scores += token_logprobs(logits, targets, sequence.params.prompt_logprobs)
        return scores

    def _pool_prompts(self, plan: StepPlan, hidden: Any) -> None:
        """Hidden states of prompts that are wanted as a vector. A step that is repeated adds nothing twice."""
        first = 0
        for work in plan.works:
            sequence, pooled = work.sequence, work.sequence.pooled
            if pooled is not None and pooled.tokens < sequence.prompt_length:
                start = max(pooled.tokens, sequence.computed) - sequence.computed
                stop = min(sequence.computed + work.count, sequence.prompt_length) - sequence.computed
                if stop > start:
                    rows = to_numpy(hidden[first + start : first + stop])
                    pooled.add(rms_normed(rows, to_numpy(self._params.norm), self._config.rms_norm_eps))
            first += work.count

    def _logits(self, hidden: Any) -> Any:
        return decoder.logits(self._params, self._config, self._ops, hidden)


def _collect_mass(plan: StepPlan, mass: npt.NDArray[np.float32]) -> None:
    """Add what a step's decoding rows gave to each block, [S, G, max_blocks], to their sequences, and clear it.

    Rows that still read the prompt, and are alone by chance, don't count.
    """
    for row, work in zip(mass, plan.works, strict=True):
        if work.sequence.mass is not None and work.sequence.computed >= work.sequence.prompt_length:
            work.sequence.mass += row
    mass[:] = 0
