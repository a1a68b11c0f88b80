"""The engine: token ids in, token ids out, many sequences at a time, one step after the other.

``step`` reads aloud: plan, run, sample, commit, trace. Nothing happens between steps, no thread runs in the background;
whoever wants tokens calls ``step``. Not thread-safe: ``backends.native`` puts a lock around it. A step that an exception
(Ctrl-C) leaves early has changed no sequence and can be repeated.
"""

import secrets
from dataclasses import dataclass
from importlib import import_module
from time import perf_counter
from typing import Any

import numpy as np

from whimbrel import hardware
from whimbrel.attention.keys import KeyCount
from whimbrel.engine import limits
from whimbrel.engine.blocks import blocks_for
from whimbrel.engine.cache import PagedCache
from whimbrel.engine.document import DocumentBlocks
from whimbrel.engine.pace import Pace
from whimbrel.engine.request import NO_KEYS, FinishReason, Request, Sequence, StepOutput, TokenLogprob
from whimbrel.engine.runner import Runner, StepLogits
from whimbrel.engine.sampling import choose_tokens, note_token, run_ahead, token_logprobs
from whimbrel.engine.scheduler import Scheduler, StepPlan
from whimbrel.engine.store import ArrayStore, NativeStore
from whimbrel.engine.trace import Trace
from whimbrel.errors import WhimbrelError
from whimbrel.models.config import ModelConfig
from whimbrel.models.rope import rope_table
from whimbrel.ops.table import OpTable


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """Counters and gauges of an engine."""

    running: int
    waiting: int
    steps: int
    prompt_tokens: int
    """tokens of all prompts so far"""
    cached_tokens: int
    """of these, tokens that came from the cache"""
    completion_tokens: int
    preemptions: int
    blocks: int
    blocks_used: int
    blocks_idle: int
    """free, with contents that can still be shared"""
    cache_bytes: int
    """semantic kernels included"""
    keys: KeyCount
    """of all tokens computed so far"""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a step adds to one sequence: usually one token, and what its grammar forces then; none while its prompt is
    read; or an error."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    error: WhimbrelError | None = None


NOTHING = Choice()

ENDED = (FinishReason.STOP, FinishReason.LENGTH)
"""Ends of sequences whose prompt has been read"""


class Engine:
    """One model, one cache, many sequences."""

    def __init__(
        self,
        model: Any,
        *,
        ops: OpTable,
        max_context: int | None = None,
        max_sequences: int = 8,
        num_blocks: int | None = None,
        cache_bytes: int | None = None,
        mapped_blocks: int = 0,
        kv_dtype: str = "bf16",
        prefill_chunk: int = 512,
        prefix_sharing: bool = True,
        threads: int | None = None,
        step_seconds: float | None = None,
    ) -> None:
        """``model`` has ``config`` and ``params``; ``ops`` is bound to the implementation that fits them.

        ``max_context`` is the most tokens, prompt and answer, of one sequence (None: as many as the model was trained
        for). The cache has ``num_blocks`` blocks of 64 tokens, or as many as fit into ``cache_bytes``, or (None, None)
        one context and a spare block. ``mapped_blocks`` of a context need no room there: documents that will be attached
        bring them. ``prefill_chunk``: most prompt tokens of one step. ``step_seconds``: the time that a step should not
        exceed; fewer prompt tokens are read in one then, as few as measured speed demands, but 16 at least. What is
        written doesn't depend on it.
        Raises ``InvalidParameter``, ``UnsupportedModel`` for sparse attention that the ops or the cache can't do, and
        ``DoesNotFit`` if the cache is larger than the free memory or smaller than one context.
        """
        self.config: ModelConfig = model.config
        self.max_context = self.config.max_position_embeddings if max_context is None else max_context
        self.max_sequences = max_sequences
        self.kv_dtype = kv_dtype
        self.prefix_sharing = prefix_sharing
        sizes = {"max_context": self.max_context, "max_sequences": max_sequences, "prefill_chunk": prefill_chunk}
        for name, value in sizes.items():
            limits.at_least_one(name, value)
        limits.check_step_seconds(step_seconds)
        native = ops.implementations.get("attend") == "native"
        limits.check_sparse(self.config, native=native)
        limits.warn_beyond_training(self.config, self.max_context)
        num_blocks = limits.count_blocks(
            self.config, self.max_context, kv_dtype, num_blocks, cache_bytes, mapped_blocks
        )
        if native:
            hardware.isa()  # switches the kernels to WHIMBREL_ISA
        if native and threads is not None:
            _set_threads(threads)
        store = (NativeStore if native else ArrayStore)(
            num_blocks,
            self.config.num_hidden_layers,
            self.config.num_key_value_heads,
            self.config.head_dim,
            kv_dtype,
            kernels=self.config.sparse is not None,
        )
        self._cache = PagedCache(
            store, num_blocks=num_blocks, max_sequences=max_sequences, max_blocks=blocks_for(self.max_context)
        )
        self._scheduler = Scheduler(
            self._cache,
            prefill_chunk=prefill_chunk,
            prefix_sharing=prefix_sharing,
            step_seconds=step_seconds,
            pace=None if step_seconds is None else Pace(self.config),
        )
        rope = rope_table(self.config, self.max_context)
        self.documents = DocumentBlocks(self._cache, self.config, model.params, rope, kv_dtype)
        """what was read before and lies on disk"""
        self._runner = Runner(model.params, self.config, self.documents.pages.watched(ops), rope, self._cache)
        self._sample = ops.sample
        self._sequences: dict[int, Sequence] = {}
        self._next_id = 0
        self._steps = self._prompt_tokens = self._cached_tokens = self._completion_tokens = 0
        self._keys = NO_KEYS
        self.trace = Trace()

    def add(self, request: Request) -> int:
        """Put a request in line; returns the id that ``StepOutput`` carries.

        What a grammar forces at the beginning is read together with the prompt.

        Raises ``PromptTooLong`` with both numbers if prompt and ``max_tokens`` exceed the context, and
        ``InvalidParameter`` for ids that the vocabulary lacks.
        """
        limits.check_request(request, self.config, self.max_context)
        params = request.params
        length = len(request.token_ids)
        limit = self.max_context if params.max_tokens is None else length + params.max_tokens
        if self._cache.blocks.num_blocks < blocks_for(self.max_context):
            limit = min(limit, self._room(request))
        stops = frozenset(params.stop_token_ids)
        if not params.ignore_eos:
            stops |= frozenset(self.config.eos_token_ids)
        seed = secrets.randbits(63) if params.seed is None else params.seed
        sequence = Sequence(self._next_id, request, seed=seed, limit=limit, stops=stops, now=perf_counter())
        if params.block_mass:
            blocks = blocks_for(self.max_context)
            sequence.mass = np.zeros((self.config.num_key_value_heads, blocks), np.float32)
        if sequence.jumps:
            sequence.tokens += run_ahead(sequence)
        self._next_id += 1
        self._sequences[sequence.id] = sequence
        self._scheduler.add(sequence)
        return sequence.id

    def step(self) -> list[StepOutput]:
        """Read or write one step of every running sequence; one output for each. [] if there is nothing to do."""
        if not self._sequences:
            return []
        start = perf_counter()
        plan = self._scheduler.plan()
        planned = perf_counter()
        logits = self._runner.run(plan)
        ran = perf_counter()
        choices = self._choose(plan, logits)
        sampled = perf_counter()
        before = self._keys
        outputs = self._commit(plan, choices, logits.prompt)
        marks = start, planned, ran, sampled, perf_counter()
        self._scheduler.note(plan, marks[-1] - start)
        self.trace.record(marks, len(plan.works), plan.num_tokens, self._keys - before)
        return outputs

    def abort(self, request_id: int) -> StepOutput | None:
        """Stop a request and free its blocks; its last output, or None if it has ended already."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return None
        output = _output(sequence, perf_counter(), finish_reason=FinishReason.ABORT)
        self._scheduler.remove(sequence)
        return output

    @property
    def is_idle(self) -> bool:
        """True if nothing runs and nothing waits."""
        return not self._sequences

    @property
    def stats(self) -> EngineStats:
        """A snapshot."""
        blocks = self._cache.blocks
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            completion_tokens=self._completion_tokens,
            preemptions=self._scheduler.preemptions,
            blocks=blocks.num_blocks,
            blocks_used=blocks.used,
            blocks_idle=blocks.idle,
            cache_bytes=blocks.num_blocks * limits.block_bytes(self.config, self.kv_dtype),
            keys=self._keys,
        )

    def audit(self) -> None:
        """Check the cache's invariants; for tests. Raises AssertionError."""
        self._cache.blocks.audit([sequence.blocks for sequence in self._sequences.values()])

    def _room(self, request: Request) -> int:
        """Tokens that a request can have where only documents and the cache together hold a whole context."""
        shares = self.prefix_sharing and request.params.prompt_logprobs is None and request.pooling is None
        pinned = self._cache.count_pinned(request.token_ids) if shares else 0
        own = self._cache.blocks.num_blocks
        return limits.check_room(len(request.token_ids), request.params.max_tokens, own, pinned)

    # --- the parts of a step

    def _choose(self, plan: StepPlan, logits: StepLogits) -> list[Choice]:
        """What comes after each work of the plan, in its order."""
        choices = []
        row = 0
        for work in plan.works:
            if not work.reaches_end:
                choices.append(NOTHING)
                continue
            sequence = work.sequence
            choices.append(NOTHING if sequence.ended else self._choose_one(sequence, logits.rows[row]))
            row += 1
        return choices

    def _choose_one(self, sequence: Sequence, logits: Any) -> Choice:
        """What comes next in one sequence, logits [V]. An error ends this sequence and no other."""
        try:
            tokens = choose_tokens(logits, sequence, self._sample)
            if sequence.params.logprobs is None:
                return Choice(tokens)
            return Choice(tokens, tuple(token_logprobs(logits[None], tokens, sequence.params.logprobs)))
        except WhimbrelError as error:
            return Choice((), (), error)

    def _commit(
        self, plan: StepPlan, choices: list[Choice], prompt_logprobs: dict[int, list[TokenLogprob]]
    ) -> list[StepOutput]:
        """Make the step's results part of the sequences; end those that are done."""
        now = perf_counter()
        self._steps += 1
        outputs = []
        for work, choice in zip(plan.works, choices, strict=True):
            sequence = work.sequence
            at_end = work.reaches_end
            self._keys += sequence.advance(work.count, self.config.sparse)
            self._cache.commit(sequence)
            scores = tuple(prompt_logprobs.get(sequence.id, ()))
            sequence.scored += len(scores)
            news = self._advance(sequence, choice, now) if at_end else ()
            finish = _finish_reason(sequence, choice) if at_end else None
            outputs.append(_output(sequence, now, choice, news, scores, finish))
            if finish is not None:
                del self._sequences[sequence.id]
                self._scheduler.remove(sequence)
        return outputs

    def _advance(self, sequence: Sequence, choice: Choice, now: float) -> tuple[int, ...]:
        """Append the new tokens, and keep the clocks and counters; what there is to tell."""
        if sequence.first_token is None:
            sequence.first_token = now
            self._prompt_tokens += sequence.prompt_length
            self._cached_tokens += sequence.cached
        sequence.last_token = now
        for token in choice.tokens:
            sequence.tokens.append(token)
            note_token(sequence, token)
        news = tuple(sequence.tokens[sequence.reported :])
        sequence.reported = len(sequence.tokens)
        self._completion_tokens += len(news)
        return news


def _finish_reason(sequence: Sequence, choice: Choice) -> FinishReason | None:
    return sequence.ended if choice.error is None else FinishReason.ERROR


def _output(
    sequence: Sequence,
    now: float,
    choice: Choice = NOTHING,
    tokens: tuple[int, ...] = (),
    prompt_logprobs: tuple[TokenLogprob, ...] = (),
    finish_reason: FinishReason | None = None,
) -> StepOutput:
    return StepOutput(
        sequence.id,
        tokens,
        min(sequence.computed, sequence.prompt_length),
        sequence.usage(),
        sequence.timings(now),
        sequence.seed,
        choice.logprobs,
        prompt_logprobs,
        finish_reason,
        choice.error,
        None if sequence.mass is None else sequence.mass[:, : blocks_for(len(sequence.tokens))],
        sequence.pooled.vector() if finish_reason in ENDED and sequence.pooled is not None else None,
    )


def _set_threads(threads: int) -> None:
    limits.at_least_one("threads", threads)
    import_module("whimbrel._native").set_num_threads(threads)
