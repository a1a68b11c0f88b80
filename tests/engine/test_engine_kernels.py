"""Semantic kernels in the paged cache: whatever is shared, copied, preempted or rolled back, each is the mean of its keys."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from driving import finish, request, tokens_of, write
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from toy import PRIME, oracle, toy_model, toy_ops

from whimbrel.attention.keys import KeyCount, count_keys
from whimbrel.attention.sparse import SparseConfig
from whimbrel.engine import Engine
from whimbrel.engine.limits import block_bytes, count_blocks
from whimbrel.errors import UnsupportedModel

SPARSE = SparseConfig(topk=2, window_size=64, dense_len=-1)


def kernel_hash(ids: Any) -> float:
    """A number that tells 32 ids apart, exact in fp32."""
    h = 1
    for token in ids:
        h = (h * 31 + int(token) + 1) % PRIME
    return float(h)


def semantic_kernels(inputs: Any, cache: Any, layer: int, *, sparse: Any, rope: Any) -> None:
    """Writes the kernels that end in this step, as the op does: here a hash of the 32 keys below each."""
    for sequence, length in enumerate(inputs.kv_lengths):
        first, end = inputs.cu_seqlens[sequence : sequence + 2]
        old, new = (max(0, (count - 16) // 16) for count in (int(length - (end - first)), int(length)))
        if new > old:
            keys, _ = cache.read(layer, sequence, inputs)
            values = [kernel_hash(keys[16 * i : 16 * i + 32, 0, 0]) for i in range(old, new)]
            cache.write_kernels(layer, sequence, old, np.array(values, np.float32)[:, None, None].repeat(2, 2), inputs)


def select_blocks(q: Any, inputs: Any, cache: Any, layer: int, **rest: Any) -> None:
    """Reads all kernels and checks each; chooses nothing."""
    for sequence, length in enumerate(inputs.kv_lengths):
        keys, _ = cache.read(layer, sequence, inputs)
        count = max(0, (int(length) - 16) // 16)
        found = cache.read_kernels(layer, sequence, count, inputs)[:, 0, 0]
        wanted = [kernel_hash(keys[16 * i : 16 * i + 32, 0, 0]) for i in range(count)]
        assert found.tolist() == wanted, f"sequence {sequence} of {length} tokens has a wrong kernel"


def kernel_engine(**options: Any) -> Engine:
    """The toy network with kernels that are checked at every step."""
    model = toy_model()
    model = replace(model, config=replace(model.config, sparse=SPARSE))
    ops = toy_ops(semantic_kernels=semantic_kernels, select_blocks=select_blocks)
    return Engine(model, ops=ops, kv_dtype="f32", **{"max_context": 512, **options})


BASES = tuple(tuple((7 * i * (base + 3) + i // 5) % 48 for i in range(300)) for base in range(3))


class KernelMachine(RuleBasedStateMachine):
    """Random requests on a cache that is too small for them."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = kernel_engine(max_context=256, max_sequences=3, num_blocks=9, prefill_chunk=48)
        self.prompts: dict[int, list[int]] = {}
        self.written: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}

    @rule(base=st.sampled_from(BASES), length=st.integers(1, 200), tail=st.lists(st.integers(0, 47), max_size=3),
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
                    id = output.request_id
                    assert self.written[id] == oracle(self.prompts.pop(id), self.lengths[id])

    @rule(which=st.integers(0, 5), back=st.integers(0, 100))
    def roll_back(self, which: int, back: int) -> None:
        """What was computed is forgotten and computed again."""
        running = self.engine._scheduler.running
        if which < len(running):
            sequence = running[which]
            self.engine._cache.rollback(sequence, max(0, sequence.computed - back))

    @invariant()
    def nothing_leaks(self) -> None:
        self.engine.audit()

    def teardown(self) -> None:
        while self.prompts:
            self.step(10)
        self.nothing_leaks()


TestKernels = KernelMachine.TestCase
TestKernels.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_shared_prefix_brings_its_kernels() -> None:
    engine = kernel_engine(num_blocks=30)
    base = list(BASES[0])
    for prompt in (base, base[:200] + [1, 2, 3], base[:128], base[:129] + base[:100]):
        assert write(engine, prompt, max_tokens=40) == oracle(prompt, 40)
    assert engine.stats.cached_tokens == 200 + 127 + 129


def test_sequences_lie_in_aligned_groups() -> None:
    engine = kernel_engine(num_blocks=33, max_sequences=2, prefill_chunk=64)
    ids = [engine.add(request(list(base), max_tokens=40)) for base in BASES[:2]]
    for _ in range(3):
        engine.step()
    for sequence in engine._sequences.values():
        assert [block % 4 for block in sequence.blocks] == [index % 4 for index in range(len(sequence.blocks))]
        assert sequence.blocks[3] == sequence.blocks[0] + 3
    outputs = finish(engine, *ids)
    assert [tokens_of(outputs[id]) for id in ids] == [oracle(list(base), 40) for base in BASES[:2]]


def test_the_trace_tells_the_sparsity_of_each_step() -> None:
    engine = kernel_engine(num_blocks=9, prefill_chunk=128)
    write(engine, list(BASES[0]), max_tokens=2)
    keys = [span.keys for span in engine.trace.spans]
    parts = [(0, 128), (128, 256), (256, 300), (300, 301)]
    assert keys == [count_keys(start, stop, SPARSE) for start, stop in parts]
    assert sum(keys, KeyCount()) == engine.stats.keys
    assert engine.trace.events()[-1]["args"]["sparsity"] == keys[-1].sparsity > 0.4


def test_kernels_count_as_memory() -> None:
    engine = kernel_engine(num_blocks=8)
    dense = replace(engine.config, sparse=None)
    assert block_bytes(engine.config, "bf16") - block_bytes(dense, "bf16") == 4 * (64 + 4)
    assert engine.stats.cache_bytes == 8 * block_bytes(engine.config, "f32")
    size = 9 * block_bytes(dense, "bf16")
    assert count_blocks(dense, 512, "bf16", None, size) == 9
    assert count_blocks(engine.config, 256, "bf16", None, size) < 9


def test_native_memory_is_what_is_counted() -> None:
    native = pytest.importorskip("whimbrel._native")
    pool = native.KVPool(8, 3, 2, 80, "bf16", True)
    model = toy_model(sparse=SPARSE)
    config = replace(model.config, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2, head_dim=80)
    kernels = block_bytes(config, "bf16") - block_bytes(replace(config, sparse=None), "bf16")
    assert sum(array.nbytes for array in pool.kernels()) == 8 * kernels


def test_kernels_of_other_sizes_are_refused() -> None:
    model = toy_model(sparse=replace(SPARSE, kernel_size=64, kernel_stride=32))
    with pytest.raises(UnsupportedModel, match="kernels of 64 tokens, 32 apart"):
        Engine(model, ops=toy_ops(), kv_dtype="f32")
