"""The engine with real networks: the reference against a direct computation, the native kernels bit for bit.

Native results may not depend on the batch, on chunks, on what was cached or on threads: scores are compared exactly.
"""

import functools
from typing import Any

import numpy as np
import pytest
from driving import finish, request, tokens_of

from whimbrel.attention.dense_view import DenseView
from whimbrel.attention.inputs import AttentionInputs
from whimbrel.engine import Engine, StepOutput
from whimbrel.errors import UnsupportedCapability
from whimbrel.formats.packed import pack
from whimbrel.models import decoder
from whimbrel.models.rope import rope_table
from whimbrel.ops import dispatch
from whimbrel.testing import tiny

native_missing = dispatch.get("attend").why_not("native")
needs_native = pytest.mark.skipif(native_missing is not None, reason=native_missing or "")
FAMILIES = tiny.FAMILIES


class TinyModel:
    """Config and parameters."""

    def __init__(self, family: str, layout: str) -> None:
        self.config = tiny.config(family)
        matrix = functools.partial(pack, layout=layout, group=32)
        self.params = tiny.params(self.config, matrix=lambda dense: matrix(dense))


@functools.cache
def tiny_model(family: str, layout: str) -> TinyModel:
    return TinyModel(family, layout)


def engine_of(family: str = "llama", layout: str = "q4", *, ops: str = "native", **options: Any) -> Engine:
    settings: dict[str, Any] = {"max_context": 320, "max_sequences": 4, "num_blocks": 24} | options
    return Engine(tiny_model(family, layout), ops=dispatch.bind(ops), **settings)


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [int(id) for id in np.random.default_rng(seed).integers(5, tiny.VOCAB_SIZE, length)]


def scores_of(outputs: list[StepOutput]) -> list[tuple[int, float]]:
    """Everything that was written, to the last bit."""
    return [(entry.token_id, entry.logprob) for output in outputs for entry in output.logprobs]


def run(engine: Engine, prompt: list[int], count: int = 20) -> list[tuple[int, float]]:
    id = engine.add(request(prompt, max_tokens=count, logprobs=0, ignore_eos=True))
    return scores_of(finish(engine, id)[id])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_engine_equals_a_direct_computation(family: str) -> None:
    engine = engine_of(family, "f32", ops="reference", kv_dtype="f32", prefill_chunk=30)
    prompt = prompt_of(75)
    id = engine.add(request(prompt, max_tokens=8, logprobs=3, prompt_logprobs=3, ignore_eos=True))
    outputs = finish(engine, id)[id]
    ids = prompt + tokens_of(outputs)
    exact = direct_logprobs(tiny_model(family, "f32"), ids)
    entries = [entry for output in outputs for entry in (*output.prompt_logprobs, *output.logprobs)]
    assert [entry.token_id for entry in entries] == ids[1:]
    for row, entry in enumerate(entries):
        assert entry.logprob == pytest.approx(exact[row, entry.token_id], abs=1e-4)
        assert [p for _, p in entry.top] == pytest.approx(np.sort(exact[row])[::-1][:3], abs=1e-4)


def direct_logprobs(model: TinyModel, ids: list[int]) -> Any:
    """[L, V] log-softmax of one forward pass over all ids, without engine or paged cache."""
    length = len(ids)
    inputs = AttentionInputs(
        token_ids=np.array(ids, np.int32),
        positions=np.arange(length, dtype=np.int32),
        cu_seqlens=np.array([0, length], np.int32),
        kv_lengths=np.array([length], np.int32),
        block_tables=np.zeros((1, 1), np.int32),
    )
    config, ops = model.config, dispatch.bind("reference")
    view = DenseView(num_key_value_heads=config.num_key_value_heads, head_dim=config.head_dim)
    hidden = decoder.forward(model.params, config, ops, rope_table(config, length), inputs, view)
    return decoder.logits(model.params, config, ops, hidden).log_softmax(-1).numpy()


@needs_native
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("layout", "kv_dtype"), [("q4", "bf16"), ("q8", "q8"), ("bf16", "bf16"), ("f32", "q8")])
def test_native_is_the_same_in_batches_chunks_and_from_the_cache(family: str, layout: str, kv_dtype: str) -> None:
    prompts = [prompt_of(length, length) for length in (3, 64, 70, 131, 190)]
    alone = [run(engine_of(family, layout, kv_dtype=kv_dtype), prompt) for prompt in prompts]
    together = engine_of(family, layout, kv_dtype=kv_dtype, prefill_chunk=50)
    ids = [together.add(request(p, max_tokens=20, logprobs=0, ignore_eos=True)) for p in prompts]
    outputs = finish(together, *ids)
    assert [scores_of(outputs[id]) for id in ids] == alone
    hurried = engine_of(family, layout, kv_dtype=kv_dtype, step_seconds=0.001)  # its pieces depend on measured times
    ids = [hurried.add(request(p, max_tokens=20, logprobs=0, ignore_eos=True)) for p in prompts]
    outputs = finish(hurried, *ids)
    assert [scores_of(outputs[id]) for id in ids] == alone
    cached = engine_of(family, layout, kv_dtype=kv_dtype)
    run(cached, prompts[4])
    assert run(cached, prompts[4]) == alone[4]
    assert cached.stats.cached_tokens == 189


@needs_native
def test_native_is_the_same_on_one_and_two_threads() -> None:
    from whimbrel import _native

    before = _native.num_threads()
    try:
        runs = [run(engine_of("minicpm", threads=threads), prompt_of(150), 40) for threads in (1, 2, 3)]
    finally:
        _native.set_num_threads(before)
    assert runs[0] == runs[1] == runs[2]


@needs_native
def test_native_preemption_changes_nothing() -> None:
    prompts = [prompt_of(100, seed) for seed in range(3)]
    alone = [run(engine_of(), prompt, 100) for prompt in prompts]
    crowded = engine_of(max_sequences=3, num_blocks=7)
    ids = [crowded.add(request(p, max_tokens=100, logprobs=0, ignore_eos=True)) for p in prompts]
    outputs = finish(crowded, *ids)
    assert crowded.stats.preemptions and [scores_of(outputs[id]) for id in ids] == alone
    crowded.audit()


@needs_native
@pytest.mark.parametrize("family", FAMILIES)
def test_native_agrees_with_the_reference(family: str) -> None:
    prompt = prompt_of(100)
    scores = []
    for ops, kv_dtype in (("native", "bf16"), ("reference", "f32")):
        engine = engine_of(family, "bf16", ops=ops, kv_dtype=kv_dtype)
        id = engine.add(request(prompt, max_tokens=0, prompt_logprobs=0))
        outputs = finish(engine, id)[id]
        scores.append([entry.logprob for output in outputs for entry in output.prompt_logprobs])
    difference = np.abs(np.subtract(*scores))
    assert difference.max() < 0.25 and difference.mean() < 0.05  # a wrong position or mask gives differences above 1


def test_what_a_store_lacks_is_refused() -> None:
    with pytest.raises(UnsupportedCapability, match="q8"):
        engine_of(ops="reference", kv_dtype="q8")
    if native_missing is None:
        with pytest.raises(UnsupportedCapability, match="f32"):
            engine_of(kv_dtype="f32")
