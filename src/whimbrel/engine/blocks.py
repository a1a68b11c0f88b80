"""Which block of the cache is whose: an allocator of numbers, without the memory behind them.

A block is *used* (someone holds a reference), *idle* (nobody does, but its contents are known and may be shared again)
or *blank*. Idle blocks are given away last, the longest unused one first. *Pinned* blocks lie elsewhere, with numbers
from ``num_blocks`` on (a document on disk): they are found and shared like others, and never written or given away.

Semantic kernels of four blocks lie together, and scoring them is fastest where four neighbours of a sequence are four
neighbours in memory. With ``group=4`` a sequence gets its blocks in aligned groups of four as long as there are some:
its n-th block is one whose number leaves the same rest.

Contents are found by a chain of hashes: the key of a full block is blake2b(key of the block before it, its 64 ids), so
equal keys mean equal tokens from the start of the sequence. A block that isn't full is found through its parent's key
and compared token by token.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from whimbrel.attention.inputs import BLOCK_SIZE

ROOT = b""
"""Key of the empty prefix, the parent of every first block."""

REMEMBERED_DROPS = 4096
"""Keys of dropped blocks that are kept to tell "was dropped" from "never seen": 16 bytes each."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a block holds: ``ids`` (at most 64 of them) that follow the prefix of key ``parent``."""

    parent: bytes
    ids: tuple[int, ...]
    key: bytes | None
    """of a full block; None where there are fewer than 64 ids"""


def block_key(parent: bytes, ids: Sequence[int]) -> bytes:
    """The 16-byte key of a full block: the prefix of key ``parent``, then 64 ``ids``."""
    return blake2b(parent + array("i", ids).tobytes(), digest_size=16).digest()


class BlockPool:
    """Reference counts, known contents, and the order in which idle blocks are given away."""

    def __init__(self, num_blocks: int, *, group: int = 1) -> None:
        """All ``num_blocks`` are blank. ``group``: neighbours that should belong to one sequence, in order."""
        self.num_blocks = num_blocks
        self._group = group
        self._blank: dict[int, None] = {}  # in the order in which they became blank
        self._blanks = [0] * blocks_for(num_blocks, group)  # of each group
        self._whole: dict[int, None] = {}  # groups that are all blank
        for block in range(num_blocks - 1, -1, -1):
            self._make_blank(block)
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._references = [0] * num_blocks
        self._pinned: set[int] = set()
        self._contents: dict[int, Contents] = {}
        self._full: dict[bytes, int] = {}
        self._children: dict[bytes, set[int]] = {}
        self._dropped: OrderedDict[bytes, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that can be allocated now: blank and idle ones."""
        return len(self._blank) + len(self._idle)

    @property
    def used(self) -> int:
        """Blocks that someone holds."""
        return self.num_blocks - self.available

    @property
    def idle(self) -> int:
        """Blocks that nobody holds and whose contents can still be shared."""
        return len(self._idle)

    def is_idle(self, block: int) -> bool:
        """True if nobody holds the block and its contents are known."""
        return block in self._idle

    def is_shared(self, block: int) -> bool:
        """True if the block is not its holder's alone, to be written: others hold it, or it is pinned."""
        return self._references[block] > 1 or block in self._pinned

    def contents(self, block: int) -> Contents | None:
        """What the block is known to hold, or None."""
        return self._contents.get(block)

    def allocate(self, index: int = 0, after: int | None = None) -> int | None:
        """A block for the caller alone, its contents forgotten; None if all are used.

        ``index``: which block of its sequence it will be; ``after``: the block before it. Both are wishes about order.
        """
        slot = index % self._group
        if slot and after is not None and after % self._group == slot - 1 and after + 1 in self._blank:
            block: int | None = after + 1
        else:
            block = self._any_blank(slot)
        if block is None:
            return None
        self._take(block)
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """Hold one more reference to a used or idle block."""
        assert self._references[block] > 0 or block in self._idle or block in self._pinned, f"block {block} is blank"
        self._idle.pop(block, None)
        self._references[block] += 1

    def release(self, block: int) -> None:
        """Give one reference back; the last one makes the block idle, or blank if its contents are unknown."""
        assert self._references[block] > 0, f"block {block} is not used"
        self._references[block] -= 1
        if self._references[block] == 0 and block not in self._pinned:
            if block in self._contents:
                self._idle[block] = None
            else:
                self._make_blank(block)

    def register(self, block: int, parent: bytes, ids: Iterable[int], key: bytes | None = None) -> None:
        """Make a used block's contents known. ``key`` is that of a full block."""
        assert self._references[block] > 0, f"block {block} is not used"
        self._know(block, Contents(parent, tuple(ids), key))

    def pin(self, block: int, parent: bytes, ids: Iterable[int], key: bytes) -> None:
        """Make a full block beyond the pool's own known, for good."""
        assert block >= self.num_blocks and block not in self._pinned, f"block {block} can't be pinned"
        self._references += [0] * (block + 1 - len(self._references))
        self._pinned.add(block)
        self._know(block, Contents(parent, tuple(ids), key))

    def unpin(self, block: int) -> None:
        """Forget a pinned block that nobody holds."""
        assert block in self._pinned and self._references[block] == 0, f"block {block} is in use"
        self.forget(block)
        self._pinned.discard(block)

    def is_pinned(self, block: int) -> bool:
        """True if the block lies elsewhere."""
        return block in self._pinned

    def is_held(self, block: int) -> bool:
        """True if someone holds the block."""
        return self._references[block] > 0

    def _know(self, block: int, contents: Contents) -> None:
        self.forget(block)
        self._contents[block] = contents
        self._children.setdefault(contents.parent, set()).add(block)
        if contents.key is not None:
            self._full[contents.key] = block

    def forget(self, block: int) -> None:
        """The block's contents are about to change."""
        contents = self._contents.pop(block, None)
        if contents is None:
            return
        siblings = self._children[contents.parent]
        siblings.discard(block)
        if not siblings:
            del self._children[contents.parent]
        if contents.key is not None and self._full.get(contents.key) == block:
            # Two documents may begin alike: the other one's block serves from now on.
            twin = next((other for other in siblings if self._contents[other].key == contents.key), None)
            if twin is None:
                del self._full[contents.key]
            else:
                self._full[contents.key] = twin

    def find(self, key: bytes) -> int | None:
        """The full block of that key."""
        return self._full.get(key)

    def find_partial(self, parent: bytes, ids: Sequence[int]) -> tuple[int, int] | None:
        """The block after ``parent`` that begins with most of ``ids``, and with how many; None if with none."""
        best = None
        for block in self._children.get(parent, ()):
            common = common_prefix(self._contents[block].ids, ids)
            if common and (best is None or common > best[1]):
                best = block, common
        return best

    def why_missing(self, parent: bytes, key: bytes | None, position: int, common: int) -> str:
        """Why nothing more was found at token ``position``, of which the next ``common`` were in a block."""
        if key is not None and key in self._dropped:
            return f"the block at token {position} was dropped to make room for others"
        differing = any(len(self._contents[block].ids) > common for block in self._children.get(parent, ()))
        if differing:
            return f"what was cached differs from token {position + common} on"
        if position + common == 0:
            return "no earlier request began like this one"
        return f"nothing was cached after token {position + common}"

    def audit(self, holders: Iterable[Sequence[int]]) -> None:
        """Check every invariant against the lists of blocks that ``holders`` hold; for tests. Raises AssertionError."""
        expected = [0] * len(self._references)
        for blocks in holders:
            for block in blocks:
                expected[block] += 1
        assert expected == self._references, "references differ from what is held"
        unused = sorted([*self._blank, *self._idle])
        assert unused == [block for block in range(self.num_blocks) if not expected[block]], "a block leaked"
        assert all(block in self._contents for block in self._idle), "an idle block has no contents"
        assert not any(block in self._contents for block in self._blank), "a blank block has contents"
        whole = [g for g in range(self.num_blocks // self._group) if self._blanks[g] == self._group]
        assert sorted(self._whole) == whole and sum(self._blanks) == len(self._blank), "blank groups are miscounted"
        registered = sorted(block for siblings in self._children.values() for block in siblings)
        assert registered == sorted(self._contents), "contents and children differ"
        assert all(self._contents[block].key == key for key, block in self._full.items()), "a key leads elsewhere"

    def _make_blank(self, block: int) -> None:
        group = block // self._group
        self._blank[block] = None
        self._blanks[group] += 1
        if self._blanks[group] == self._group:
            self._whole[group] = None

    def _take(self, block: int) -> None:
        """A blank block is used from now on."""
        group = block // self._group
        del self._blank[block]
        self._blanks[group] -= 1
        self._whole.pop(group, None)

    def _any_blank(self, slot: int) -> int | None:
        """A blank block, in place ``slot`` of a whole group if there is one; idle ones are dropped where they must be.

        To begin a group, a whole idle one goes even if single blank blocks are left: one odd block would shift all that
        follow, and the first prompt after the cache has filled up would be scattered for good.
        """
        if not self._whole and slot == 0:
            self._drop_oldest(self._group)
        if self._whole:
            return next(reversed(self._whole)) * self._group + slot
        if not self._blank:
            self._drop_oldest(1)
        return next(reversed(self._blank), None)

    def _drop_oldest(self, size: int) -> None:
        """Make the longest unused idle block blank with the others of its group of ``size``, if nobody uses them."""
        oldest = next(iter(self._idle), None)
        if oldest is None:
            return
        first = oldest - oldest % size
        neighbours = range(first, min(first + size, self.num_blocks))
        if any(self._references[block] for block in neighbours):
            return
        for block in neighbours:
            if block in self._idle:
                del self._idle[block]
                self._remember_drop(block)
                self.forget(block)
                self._make_blank(block)

    def _remember_drop(self, block: int) -> None:
        key = self._contents[block].key
        if key is not None:
            self._dropped[key] = None
            if len(self._dropped) > REMEMBERED_DROPS:
                self._dropped.popitem(last=False)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading elements are equal."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def blocks_for(tokens: int, size: int = BLOCK_SIZE) -> int:
    """Blocks of ``size`` that hold so many tokens."""
    return -(-tokens // size)
