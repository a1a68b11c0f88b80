"""The cache by itself: rollback, copy-on-write, and the order in which blocks are given away."""

from driving import finish, request, toy_engine
from toy import oracle

from whimbrel.engine.blocks import ROOT, BlockPool, block_key
from whimbrel.engine.cache import PagedCache
from whimbrel.engine.request import Request, Sequence
from whimbrel.engine.store import ArrayStore


def small_cache(num_blocks: int = 8) -> PagedCache:
    store = ArrayStore(num_blocks, 1, 1, 2, "f32")
    return PagedCache(store, num_blocks=num_blocks, max_sequences=4, max_blocks=8)


def sequence(tokens: list[int]) -> Sequence:
    return Sequence(0, Request(token_ids=tuple(tokens)), seed=0, limit=512, stops=frozenset(), now=0.0)


def computed(cache: PagedCache, tokens: list[int]) -> Sequence:
    """A sequence all of whose tokens are in the cache."""
    new = sequence(tokens)
    assert cache.admit(new)
    new.computed = len(tokens)
    cache.commit(new)
    return new


def test_the_longest_unused_block_goes_first_and_ends_before_beginnings() -> None:
    cache = small_cache(4)
    first, second = computed(cache, [1] * 129), None
    cache.release(first)
    second = computed(cache, [2] * 64)
    cache.release(second)
    third = computed(cache, [3] * 64)  # takes the end of the first sequence: two tokens, then a full block
    assert cache.blocks.find(block_key(ROOT, [1] * 64)) is not None
    assert cache.blocks.find(block_key(ROOT, [2] * 64)) is not None
    cache.blocks.audit([third.blocks])


def test_rollback_frees_blocks_and_copies_a_shared_one() -> None:
    cache = small_cache()
    one = computed(cache, list(range(1, 131)))
    two = computed(cache, list(range(1, 131)))
    assert two.blocks[:2] == one.blocks[:2]
    assert cache.rollback(two, 100) == 100
    assert two.blocks[0] == one.blocks[0] and two.blocks[1] != one.blocks[1] and len(two.blocks) == 2
    assert list(cache.tables[two.slot][:3]) == [*two.blocks, -1]
    cache.blocks.audit([one.blocks, two.blocks])
    assert cache.rollback(two, 64) == 64 and len(two.blocks) == 1
    assert cache.rollback(one, 64) == 64
    cache.blocks.audit([one.blocks, two.blocks])


def test_rollback_without_a_free_block_goes_back_to_the_block_s_start() -> None:
    cache = small_cache(4)
    one = computed(cache, list(range(1, 130)))
    two = sequence(list(range(1, 130)))
    assert cache.admit(two)
    two.computed = 129
    cache.commit(two)
    assert cache.blocks.available == 0
    cache.rollback(two, 128)  # its third block is free again
    assert cache.blocks.allocate() is not None
    assert cache.rollback(two, 100) == 64
    assert one.blocks[0] == two.blocks[0] and len(two.blocks) == 1


def test_a_block_that_is_rolled_back_into_is_no_longer_found() -> None:
    cache = small_cache()
    one = computed(cache, list(range(64)))
    cache.rollback(one, 10)
    assert cache.blocks.find(block_key(ROOT, list(range(64)))) is None


def test_admission_is_all_or_nothing() -> None:
    cache = small_cache(3)
    one = computed(cache, list(range(100)))
    two = sequence([7] * 130)
    assert not cache.admit(two)
    assert two.slot == -1 and two.blocks == []
    cache.blocks.audit([one.blocks])


def test_the_last_block_is_taken_over_when_there_is_no_room_for_a_copy() -> None:
    engine = toy_engine(max_context=128, num_blocks=2)
    prompt = list(range(40)) * 3
    for changed in (prompt, [*prompt[:100], 9, 8, 7, *prompt[103:]]):
        id = engine.add(request(changed, max_tokens=8))
        output = finish(engine, id)[id]
        assert [t for step in output for t in step.token_ids] == oracle(changed, 8)
    assert output[-1].usage.cached_tokens == 100
    engine.audit()


def test_keys_depend_on_everything_before() -> None:
    ids = list(range(64))
    assert block_key(ROOT, ids) != block_key(block_key(ROOT, ids), ids)
    assert len(block_key(ROOT, ids)) == 16


def test_a_pool_gives_none_when_all_are_used() -> None:
    pool = BlockPool(2)
    a, b = pool.allocate(), pool.allocate()
    assert a is not None and b is not None and pool.allocate() is None
    pool.release(a)
    assert pool.available == 1 and pool.used == 1


def test_sequences_get_aligned_groups_of_four() -> None:
    pool = BlockPool(17, group=4)  # the last block is no group
    first = allocated(pool, 9)
    assert all(block % 4 == index % 4 for index, block in enumerate(first))
    assert all(first[index + 1] == first[index] + 1 for index in (0, 1, 2, 4, 5, 6))
    second = allocated(pool, 4, start=6)  # continues a prefix that somebody else holds
    assert [block % 4 for block in second[:2]] == [2, 3] and second[1] == second[0] + 1
    assert allocated(pool, 4) and pool.allocate(0) is None  # wishes never cost a block
    assert pool.available == 0


def test_a_full_cache_gives_whole_groups_back() -> None:
    pool = BlockPool(17, group=4)
    for block in reversed(allocated(pool, 16)):
        pool.register(block, ROOT, [block])
        pool.release(block)
    blocks = allocated(pool, 8)
    assert [block % 4 for block in blocks] == [0, 1, 2, 3] * 2
    assert blocks[:4] == list(range(blocks[0], blocks[0] + 4))
    assert pool.idle == 8 and pool.available == 9
    pool.audit([blocks])


def test_a_group_that_somebody_uses_is_left_alone() -> None:
    pool = BlockPool(4, group=4)
    blocks = allocated(pool, 4)
    for block in blocks[1:]:
        pool.register(block, ROOT, [block])
        pool.release(block)
    assert pool.allocate(0) == blocks[1] and pool.idle == 2


def allocated(pool: BlockPool, count: int, start: int = 0) -> list[int]:
    """The blocks of a sequence from its block ``start`` on."""
    blocks: list[int] = []
    for index in range(start, start + count):
        block = pool.allocate(index, blocks[-1] if blocks else None)
        assert block is not None
        blocks.append(block)
    return blocks
