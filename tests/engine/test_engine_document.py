"""Documents in the cache: pinned blocks are found and shared like others, and never written or given away."""

from typing import Any

import numpy as np
import pytest
from driving import finish, request, tokens_of, write

from whimbrel.engine import Engine
from whimbrel.engine.blocks import ROOT, BlockPool, block_key
from whimbrel.engine.document import document_keys
from whimbrel.errors import PromptTooLong, UnsupportedCapability, UsageError
from whimbrel.formats.packed import pack
from whimbrel.ops import dispatch
from whimbrel.testing import tiny

WHY_NO_NATIVE = dispatch.get("attend").why_not("native")
native = pytest.mark.skipif(WHY_NO_NATIVE is not None, reason=str(WHY_NO_NATIVE))
IDS = np.random.default_rng(0).integers(5, 260, 5 * 64).astype(np.int32)
QUESTION = [7, 8, 9, 10, 11]


class Network:
    """What an engine needs of a model."""

    def __init__(self, **changes: Any) -> None:
        self.config = tiny.config("llama", **changes)
        self.params = tiny.params(self.config, matrix=lambda w: pack(w, "q8", 32))


def engine_of(changes: dict[str, Any] | None = None, **options: Any) -> Engine:
    """``changes`` to the tiny model's config.json; options of the engine."""
    settings: dict[str, Any] = {"ops": dispatch.bind("native"), "max_context": 1024, "prefill_chunk": 128} | options
    return Engine(Network(**changes or {}), **settings)


def read(engine: Engine, ids: Any) -> tuple[Any, Any, Any]:
    """Prefill whole blocks; copies of their data, codes and scales as a file has them."""
    write(engine, ids.tolist(), max_tokens=0)
    layout = engine.documents.layout(len(ids) // 64)
    data = np.empty((layout.num_blocks, layout.block_bytes), np.uint8)
    codes, scales = np.zeros(layout.code_bytes, np.uint8), np.zeros(layout.scale_bytes, np.uint8)
    for index, key in enumerate(document_keys(ids)):
        found = engine.documents.take(key)
        assert found is not None
        for target, source in zip((data[index], *layout.kernels_of(codes, scales, index)), found):
            target[...] = source
    return data.reshape(-1), codes, scales


@native
@pytest.mark.parametrize("kv_dtype", ["bf16", "q8"])
def test_an_attached_document_is_not_read_again_and_answers_alike(kv_dtype: str) -> None:
    prompt = [*IDS.tolist(), *QUESTION]
    one = engine_of(kv_dtype=kv_dtype)
    parts = read(one, IDS)
    expected = write(one, prompt, max_tokens=70)
    two = engine_of(kv_dtype=kv_dtype, mapped_blocks=5, num_blocks=11)
    for part in parts:
        part.flags.writeable = False
    key = two.documents.attach(IDS, *parts)
    id = two.add(request(prompt, max_tokens=70))
    outputs = finish(two, id)[id]
    assert tokens_of(outputs) == expected
    assert outputs[-1].usage.cached_tokens == 320
    two.audit()
    two.documents.detach(key)
    two.audit()
    id = two.add(request(prompt, max_tokens=70))
    outputs = finish(two, id)[id]
    assert tokens_of(outputs) == expected and outputs[-1].usage.cached_tokens == 0


@native
def test_a_block_that_is_used_in_part_is_copied() -> None:
    engine = engine_of()
    parts = read(engine, IDS)
    before = [part.copy() for part in parts]
    other = engine_of()
    other.documents.attach(IDS, *parts)
    prompt = [*IDS[:200].tolist(), 1, 2, 3]
    id = other.add(request(prompt, max_tokens=80))
    outputs = finish(other, id)[id]
    assert outputs[-1].usage.cached_tokens == 200
    assert tokens_of(outputs) == write(engine_of(prefix_sharing=False), prompt, max_tokens=80)
    assert all((part == old).all() for part, old in zip(parts, before))
    other.audit()


@native
def test_the_cache_alone_need_not_hold_the_context() -> None:
    engine = engine_of(mapped_blocks=13, num_blocks=3)
    with pytest.raises(PromptTooLong, match="in an open document; the cache holds 192 more"):
        engine.add(request(IDS.tolist(), max_tokens=1))
    engine.documents.attach(IDS, *read(engine_of(), IDS))
    id = engine.add(request([*IDS.tolist(), *QUESTION], max_tokens=192 - len(QUESTION)))
    assert len(tokens_of(finish(engine, id)[id])) == 192 - len(QUESTION)
    with pytest.raises(PromptTooLong):
        engine.add(request([*IDS.tolist(), *QUESTION], max_tokens=193 - len(QUESTION)))
    id = engine.add(request([*IDS.tolist(), *QUESTION]))  # to the end of what there is
    assert len(tokens_of(finish(engine, id)[id])) == 192 - len(QUESTION)
    engine.audit()


@native
def test_a_document_stays_while_it_is_used() -> None:
    engine = engine_of()
    parts = read(engine_of(), IDS)
    key = engine.documents.attach(IDS, *parts)
    assert engine.documents.attach(IDS, *parts) == key
    id = engine.add(request([*IDS.tolist(), *QUESTION], max_tokens=3))
    engine.step()
    engine.documents.detach(key)  # one of two users
    with pytest.raises(UsageError, match="still reads this document"):
        engine.documents.detach(key)
    engine.abort(id)
    engine.documents.detach(key)
    engine.audit()


@native
def test_blocks_put_back_are_blocks_that_were_read() -> None:
    one = engine_of()
    data, codes, scales = read(one, IDS)
    layout = one.documents.layout(5)
    two = engine_of()
    key = ROOT
    for index in range(3):
        block = data[index * layout.block_bytes : (index + 1) * layout.block_bytes]
        kernels = layout.kernels_of(codes, scales, index)
        key = two.documents.put(key, IDS[index * 64 : (index + 1) * 64], index, block, *kernels)
    id = two.add(request([*IDS.tolist(), *QUESTION], max_tokens=8))
    outputs = finish(two, id)[id]
    assert outputs[-1].usage.cached_tokens == 192
    assert tokens_of(outputs) == write(one, [*IDS.tolist(), *QUESTION], max_tokens=8)
    two.audit()


@native
def test_formats_and_networks_are_told_apart() -> None:
    engine = engine_of()
    assert engine.documents.format == engine_of(max_context=512).documents.format
    assert engine.documents.format != engine_of(kv_dtype="q8").documents.format
    other = Network(rope_theta=20000.0)
    turned = Engine(other, ops=dispatch.bind("native"))
    assert turned.documents.format["rope"] != engine.documents.format["rope"]
    assert turned.documents.model_fingerprint == engine.documents.model_fingerprint
    other.params = tiny.params(other.config, matrix=lambda w: pack(w, "q4", 32))
    assert Engine(other, ops=dispatch.bind("native")).documents.model_fingerprint != turned.documents.model_fingerprint
    other.params = tiny.params(other.config, matrix=lambda w: pack(w, "q8", 32), seed=1)
    assert Engine(other, ops=dispatch.bind("native")).documents.model_fingerprint != turned.documents.model_fingerprint


def test_an_engine_without_native_blocks_says_so() -> None:
    from driving import toy_engine

    with pytest.raises(UnsupportedCapability, match="native"):
        toy_engine().documents.attach(IDS, *[np.empty(0, np.uint8)] * 3)


def test_two_documents_that_begin_alike() -> None:
    pool = BlockPool(2)
    ids = list(range(64))
    key = block_key(ROOT, ids)
    for block in (2, 3):
        pool.pin(block, ROOT, ids, key)
    assert pool.available == 2 and pool.find(key) == 3 and pool.is_shared(3) and not pool.is_idle(3)
    pool.share(3)
    pool.release(3)
    pool.unpin(3)
    assert pool.find(key) == 2
    pool.unpin(2)
    assert pool.find(key) is None
    pool.audit([])


@native
def test_pages_are_let_go_of_when_too_many_are_mapped() -> None:
    parts = read(engine_of(), IDS)
    engine = engine_of()
    calls: list[int] = []
    key = engine.documents.attach(IDS, *parts, forget=lambda: calls.append(1))
    prompt = [*IDS.tolist(), *QUESTION]
    expected = write(engine, prompt, max_tokens=4)
    assert not calls
    engine.documents.pages.limit = -1
    assert write(engine, prompt, max_tokens=4) == expected
    assert len(calls) >= 4 * 2  # each layer of each step
    engine.documents.detach(key)
    calls.clear()
    write(engine, prompt, max_tokens=2)
    assert not calls
