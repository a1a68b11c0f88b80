"""Whatever weights, cache, attention and ops: how the work is cut, shared, interrupted or taken back changes nothing."""

from collections.abc import Iterator

import pytest
from cells import CELLS, PROMPTS, SPARSE, Cell, alone, ask, finish, same, shaped, tiny_model

from whimbrel.attention.keys import count_keys
from whimbrel.attention.sparse import SparseConfig
from whimbrel.ops import dispatch

MISSING = dispatch.get("attend").why_not("native")


@pytest.fixture(scope="module", autouse=True)
def models_go() -> Iterator[None]:
    """Native weights that outlive the interpreter's modules are reported as leaks."""
    yield
    tiny_model.cache_clear()


@pytest.fixture(params=CELLS, ids=str)
def cell(request: pytest.FixtureRequest) -> Cell:
    found: Cell = request.param
    if found.ops == "native" and MISSING is not None:
        pytest.skip(MISSING)
    return found


@pytest.mark.parametrize("chunk", [33, 64, 200])
def test_chunks_do_not_matter(cell: Cell, chunk: int) -> None:
    """Invariant 6: chunked prefill equals one-shot prefill."""
    prompts = PROMPTS[3:]
    engine = cell.engine(prefill_chunk=chunk, prefix_sharing=False)
    actual = [finish(engine, ask(engine, prompt))[0] for prompt in prompts]
    same(cell, actual, [alone(cell, prompt) for prompt in prompts])


@pytest.mark.parametrize("chunk", [70, 1024])
def test_neighbours_do_not_matter(cell: Cell, chunk: int) -> None:
    """A batch of dense and sparse sequences, some of which turn sparse while they write."""
    engine = cell.engine(prefill_chunk=chunk)
    actual = finish(engine, *[ask(engine, prompt) for prompt in PROMPTS])
    same(cell, actual, [alone(cell, prompt) for prompt in PROMPTS])
    engine.audit()


@pytest.mark.parametrize("sharing", [True, False])
def test_shared_prefixes_do_not_matter(cell: Cell, sharing: bool) -> None:
    """Kernels of a shared prefix are found with it, also those that reach into the first block that is not shared."""
    long = PROMPTS[4]
    prompts = [long, long, long[:300] + PROMPTS[0], long[:321], long[:64] + PROMPTS[3]]
    engine = cell.engine(prefix_sharing=sharing)
    actual = [finish(engine, ask(engine, prompt))[0] for prompt in prompts]
    assert bool(engine.stats.cached_tokens) == sharing
    same(cell, actual, [alone(cell, prompt) for prompt in prompts])
    together = finish(engine, *[ask(engine, prompt) for prompt in prompts])
    same(cell, together, [alone(cell, prompt) for prompt in prompts])
    engine.audit()


def test_preemption_does_not_matter(cell: Cell) -> None:
    prompts = PROMPTS[2:]
    engine = cell.engine(num_blocks=18, prefix_sharing=False)
    actual = finish(engine, *[ask(engine, prompt, 60) for prompt in prompts])
    assert engine.stats.preemptions
    same(cell, actual, [alone(cell, prompt, 60) for prompt in prompts])
    engine.audit()


def test_forced_tokens_do_not_matter(cell: Cell) -> None:
    """Read together, beside others, they are what they are with a pass of each."""
    pytest.importorskip("llguidance")
    engine = cell.engine(prefill_chunk=100)
    ids = [engine.add(shaped(prompt)) for prompt in PROMPTS]
    outputs = [output for _ in iter(lambda: engine.is_idle, True) for output in engine.step()]
    together = [[token for o in outputs if o.request_id == id for token in o.token_ids] for id in ids]
    assert max(len(output.token_ids) for output in outputs) > 10
    each = cell.engine(prefix_sharing=False)
    alone = [[token for token, _ in finish(each, each.add(shaped(prompt, logprobs=0)))[0]] for prompt in PROMPTS]
    assert together == alone
    engine.audit()


@pytest.mark.parametrize(("length", "back"), [(430, 1), (430, 20), (317, 61), (250, 6)])
def test_rollback_does_not_matter(cell: Cell, length: int, back: int) -> None:
    """What was written behind a rollback leaves nothing: other tokens are computed there, then the right ones."""
    prompt = next(prompt for prompt in PROMPTS if len(prompt) == length)
    engine = cell.engine()
    wanted = alone(cell, prompt)
    strange = prompt[:-back] + tuple(reversed(prompt[-back:]))
    id = ask(engine, strange)
    while not (outputs := engine.step())[0].token_ids:
        pass
    assert outputs[0].request_id == id
    sequence = engine._sequences[id]
    kept = engine._cache.rollback(sequence, length - back)
    sequence.tokens[kept:] = prompt[kept:]
    assert kept == length - back
    same(cell, finish(engine, id), [wanted])
    engine.audit()


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.attention == "sparse"], ids=str, indirect=True)
def test_when_everything_is_selected_sparse_is_dense(cell: Cell) -> None:
    everything = SparseConfig(topk=6, window_size=64, dense_len=-1)  # 7 blocks: 448 tokens
    engine = cell.engine(everything)
    dense = Cell(cell.ops, cell.weights, cell.kv_dtype, "dense")
    actual = [finish(engine, ask(engine, prompt))[0] for prompt in PROMPTS]
    same(cell, actual, [alone(dense, prompt) for prompt in PROMPTS])
    assert engine.stats.keys.sparsity == 0


def test_sparse_is_sparse(cell: Cell) -> None:
    """Otherwise everything above holds for nothing; and the counted keys are those of the positions."""
    engine = cell.engine()
    prompt = PROMPTS[4]
    id = ask(engine, prompt)
    outputs = []
    while not engine.is_idle:
        outputs += engine.step()
    sparse = SPARSE if cell.attention == "sparse" else None
    assert outputs[-1].request_id == id
    assert outputs[-1].usage.prompt_keys == count_keys(0, len(prompt), sparse)
    assert outputs[-1].usage.completion_keys == count_keys(len(prompt), len(prompt) + 11, sparse)
    assert engine.stats.keys == count_keys(0, len(prompt) + 11, sparse)
    if sparse is not None:
        dense = Cell(cell.ops, cell.weights, cell.kv_dtype, "dense")
        assert alone(cell, prompt) != alone(dense, prompt)
        assert alone(cell, PROMPTS[1]) == alone(dense, PROMPTS[1])
