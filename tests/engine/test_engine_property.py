"""Whatever is added, stepped and aborted, in any order: no block leaks, and every answer is the oracle's."""

from driving import request, toy_engine
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from toy import oracle

from whimbrel.engine import Engine

BASES = tuple(tuple((7 * i * (base + 3) + i // 5) % 48 for i in range(200)) for base in range(3))
"""Prompts are cut from these, so that prefixes are shared and split anywhere."""


class EngineMachine(RuleBasedStateMachine):
    """Random requests on a cache that is too small for them."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = self._engine(None)
        self.prompts: dict[int, list[int]] = {}
        self.written: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}

    @initialize(step_seconds=st.sampled_from([None, 1e-6, 1e-3, 1.0]))
    def start(self, step_seconds: float | None) -> None:
        self.engine = self._engine(step_seconds)

    @rule(base=st.sampled_from(BASES), length=st.integers(1, 150), tail=st.lists(st.integers(0, 47), max_size=3),
          count=st.integers(0, 39))  # fmt: skip
    def add(self, base: tuple[int, ...], length: int, tail: list[int], count: int) -> None:
        prompt = [*base[:length], *tail]
        id = self.engine.add(request(prompt, max_tokens=count))
        self.prompts[id], self.written[id], self.lengths[id] = prompt, [], count

    @rule(steps=st.integers(1, 30))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            for output in self.engine.step():
                self.written[output.request_id] += output.token_ids
                if output.finish_reason:
                    self._check(output.request_id)

    @rule(which=st.integers(0, 5))
    def abort(self, which: int) -> None:
        living = sorted(self.prompts)
        if which < len(living):
            assert self.engine.abort(living[which]) is not None
            del self.prompts[living[which]]

    @invariant()
    def nothing_leaks(self) -> None:
        self.engine.audit()
        if not self.prompts:
            assert self.engine.is_idle and self.engine.stats.blocks_used == 0

    def teardown(self) -> None:
        while self.prompts:
            self.step(10)
        self.nothing_leaks()

    def _engine(self, step_seconds: float | None) -> Engine:
        options = {"max_context": 192, "max_sequences": 3, "num_blocks": 5, "prefill_chunk": 48}
        return toy_engine(**options, step_seconds=step_seconds)

    def _check(self, id: int) -> None:
        prompt = self.prompts.pop(id)
        assert self.written[id] == oracle(prompt, self.lengths[id])


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
