"""The border to ``llguidance``: a tokenizer's vocabulary as its trie, a compiled grammar, and matchers that follow it.

``llguidance`` knows bytes: every token is the bytes it stands for, control tokens are marked. Text that is forced is cut
into tokens as the model's own tokenizer cuts it, and the last ones are held back where more text could change the cut.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import numpy as np
import numpy.typing as npt

from whimbrel.engine.constrain import Row
from whimbrel.errors import InvalidParameter, MissingExtra, UnsupportedCapability, WhimbrelError
from whimbrel.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

KEPT_GRAMMARS = 64
"""Compiled grammars that are kept for a tokenizer."""

MOST_FORCED = 16_384
"""Tokens that a shape may begin with where it leaves no choice."""

KEPT_MASKS = 64
"""Masks whose ids are kept. Inside a text the same one comes again and again, and unpacking its bits takes 45 µs, applying
it 5."""
KEPT_TEXTS = 1024
"""Forced texts whose tokens are kept: those of a schema's keys come again and again."""

SENTINEL = "\x02"
"""A character that joins with no other: what is put before a text, so that it isn't cut as a beginning"""


def library() -> Any:
    """The module ``llguidance``. Raises ``MissingExtra``."""
    try:
        import llguidance
    except ImportError as error:
        raise MissingExtra(
            f"answers in a given shape need llguidance: pip install 'whimbrel[server]' ({error})"
        ) from None
    return llguidance


def limits() -> Any:
    """How much work a grammar may make, so that a hostile one is refused and not suffered."""
    return library().LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


def explain(error: str) -> str:
    """The library's message without the parser's state, on one line; "" of nothing."""
    if "look-around" in error or "lookaround" in error:
        return (
            "look-ahead, look-behind and word boundaries aren't supported in regular expressions; write it without them"
        )
    if "oneOf constraints" in error:
        return (
            "the options of oneOf don't exclude each other visibly, as different types or different constants of a required"
            " property do; use anyOf, or make them differ"
        )
    if "NoExtensionBias" in error:
        return "no text satisfies it"
    lines = (line.strip() for line in error.replace("<non-verbose/>", "").splitlines())
    return " ".join(line for line in lines if line)


def problem_of(source: str) -> str:
    """What is wrong with a grammar, whatever the vocabulary; "" if nothing is."""
    problem: str = library().LLMatcher.validate_grammar(source, None, limits=limits())
    return problem


def pattern_problem(pattern: str) -> str:
    """What is wrong with a regular expression; "" if nothing is."""
    return explain(problem_of(library().LLMatcher.grammar_from_json_schema({"type": "string", "pattern": pattern})))


@dataclass(frozen=True, slots=True)
class Mask:
    """Which ids can come: by the shorter list, of those that can or of those that can't."""

    ids: npt.NDArray[np.intp]
    allows: bool
    """True if ``ids`` are those that can"""

    @classmethod
    def of(cls, words: npt.NDArray[np.uint32], size: int) -> "Mask":
        """From a bit for each of ``size`` ids."""
        bits = np.unpackbits(words.view(np.uint8), count=size, bitorder="little").view(np.bool_)
        allows = bool(np.count_nonzero(bits) * 2 < size)
        return cls(np.flatnonzero(bits if allows else ~bits), allows)

    def apply(self, logits: Row, size: int) -> None:
        """Make the others -inf, in place: of the first ``size`` logits [V], and all behind those."""
        ids = self.ids if size <= len(logits) else self.ids[self.ids < len(logits)]
        if self.allows:
            kept = logits[ids]
            logits.fill(-np.inf)
            logits[ids] = kept
        else:
            logits[ids] = -np.inf
            logits[size:] = -np.inf


class Vocabulary:
    """A tokenizer's tokens for ``llguidance``, and the grammars that were compiled for them."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: tuple[int, ...]) -> None:
        """``eos_ids`` end an answer."""
        self.eos_ids = eos_ids
        self.size = tokenizer.vocab_size
        tokens = _Tokens(tokenizer, eos_ids)
        self.tokenizer = library().LLTokenizer(tokens, eos_token=list(eos_ids))
        tokens.greedy = self.tokenizer.greedy_tokenize
        self._masks: dict[bytes, Mask] = {}
        self._grammars: OrderedDict[str, CompiledGrammar] = OrderedDict()
        self._lock = threading.Lock()

    def mask(self, words: npt.NDArray[np.uint32]) -> Mask:
        """What these bits exclude."""
        key = words.tobytes()
        mask = self._masks.get(key)
        if mask is None:
            if len(self._masks) >= KEPT_MASKS:
                self._masks.clear()
            mask = self._masks[key] = Mask.of(words, self.size)
        return mask

    def compiled(self, key: str, source: Callable[[], str]) -> "CompiledGrammar":
        """The grammar of that key, compiled from its source unless it is here already."""
        with self._lock:
            if key in self._grammars:
                self._grammars.move_to_end(key)
                return self._grammars[key]
        grammar = CompiledGrammar(self, source())
        with self._lock:
            self._grammars[key] = grammar
            while len(self._grammars) > KEPT_GRAMMARS:
                self._grammars.popitem(last=False)
        return grammar


_vocabularies: "WeakKeyDictionary[Tokenizer, dict[tuple[int, ...], Vocabulary]]" = WeakKeyDictionary()
_lock = threading.Lock()


def vocabulary(tokenizer: Tokenizer, eos_ids: Iterable[int]) -> Vocabulary:
    """The tokenizer's, made once (about 0.1 s). Raises ``UnsupportedCapability`` where nothing ends an answer."""
    eos = tuple(dict.fromkeys(eos_ids))
    if not eos:
        raise UnsupportedCapability("this model names no token that ends an answer, so that a shape could never end")
    with _lock:
        known = _vocabularies.setdefault(tokenizer, {})
        if eos not in known:
            known[eos] = Vocabulary(tokenizer, eos)
        return known[eos]


class CompiledGrammar:
    """Implements ``engine.constrain.Grammar``."""

    def __init__(self, vocabulary: Vocabulary, source: str) -> None:
        """Raises ``InvalidParameter`` with the library's explanation."""
        self._vocabulary = vocabulary
        self._first = library().LLMatcher(vocabulary.tokenizer, source, log_level=0, limits=limits())
        self._lock = threading.Lock()
        if self._first.is_error():
            raise InvalidParameter(f"no answer can be held to this: {explain(self._first.get_error())}")
        try:
            self._try_beginning()
        except WhimbrelError as error:
            raise InvalidParameter(f"no answer can be held to this: {error}") from None

    def start(self) -> "GuidedMatcher":
        """A matcher at the beginning."""
        with self._lock:
            return GuidedMatcher(self._first.deep_copy(), self._vocabulary)

    def _try_beginning(self) -> None:
        """Raise what the first steps would: a shape that nothing satisfies, or that never ends, or too large a one."""
        matcher, count = self.start(), 0
        while run := matcher.forced():
            count += len(run)
            if count > MOST_FORCED:
                raise WhimbrelError(f"it begins with more than {MOST_FORCED} forced tokens, or never ends")
            matcher.advance(run)
        if not matcher.is_complete:
            matcher.mask(np.zeros(self._vocabulary.size, np.float32))


class GuidedMatcher:
    """Implements ``engine.constrain.Matcher``. The end is kept here; the library only knows what comes before it."""

    __slots__ = ("_address", "_ended", "_eos_ids", "_matcher", "_vocabulary", "_words")

    def __init__(self, matcher: "llguidance.LLMatcher", vocabulary: Vocabulary) -> None:
        """Made by ``CompiledGrammar.start``."""
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._eos_ids = vocabulary.eos_ids
        self._ended = False
        self._words = np.zeros((vocabulary.size + 31) // 32, np.uint32)
        self._address = self._words.ctypes.data  # asking anew takes 20 µs

    def mask(self, logits: Row) -> None:
        """See ``Matcher.mask``. Rows of the network behind the vocabulary are impossible too."""
        if self._ended:
            raise WhimbrelError("the answer has ended; nothing can follow")
        self._matcher.unsafe_compute_mask_ptr(self._address, self._words.nbytes)
        self._check()
        self._vocabulary.mask(self._words).apply(logits, self._vocabulary.size)

    def advance(self, token_ids: Sequence[int]) -> None:
        """See ``Matcher.advance``. A matcher that has raised is of no use any more."""
        if not token_ids:
            return
        *body, last = token_ids
        if not self._ended and (not body or self._matcher.consume_tokens(body)):
            if last in self._eos_ids and (self._matcher.is_stopped() or self._matcher.is_accepting()):
                self._ended = True
                return
            if self._matcher.consume_token(last):
                return
        reason = explain(self._matcher.get_error()) or "it has ended"
        raise WhimbrelError(f"the tokens {list(token_ids)} can't follow in the answer's shape: {reason}")

    def forced(self) -> tuple[int, ...]:
        """See ``Matcher.forced``."""
        if self._ended:
            return ()
        if self._matcher.is_stopped():
            self._check()
            return self._eos_ids[:1]
        ids = tuple(self._matcher.compute_ff_tokens())
        self._check()
        return ids

    def rollback(self, count: int) -> None:
        """See ``Matcher.rollback``."""
        if count and self._ended:
            self._ended = False
            count -= 1
        if count and not self._matcher.rollback(count):
            raise WhimbrelError(f"the answer's shape can't be taken back: {explain(self._matcher.get_error())}")

    @property
    def is_complete(self) -> bool:
        """See ``Matcher.is_complete``."""
        return self._ended

    def _check(self) -> None:
        """Raise what stopped the library: a grammar that makes too much work, or an error of its own."""
        if self._matcher.is_error():
            reason = explain(self._matcher.get_error())
            raise WhimbrelError(f"the answer's shape can't be followed: {reason}")


class _Tokens:
    """What ``LLTokenizer`` asks for: bytes of all tokens, which of them are control tokens, and a way to cut text.

    It is kept as long as the tokenizer lives, so it must not keep the tokenizer alive itself.
    """

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, eos_ids: tuple[int, ...]) -> None:
        self.eos_token_id = eos_ids[0]
        self.bos_token_id = tokenizer.bos_token_id
        self.tokens = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.special_ids | set(eos_ids))
        self.greedy: Callable[[str], list[int]] = lambda text: []
        """longest tokens first, from the trie; set once that is made"""
        self._tokenizer = ref(tokenizer)
        self._known: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """Ids of a text in the middle of an answer. Never raises: it is called from inside the library."""
        ids = self._known.get(text)
        if ids is None:
            if len(self._known) >= KEPT_TEXTS:
                self._known.clear()
            ids = self._known[text] = self._cut(text)
        return ids

    def _cut(self, text: str) -> list[int]:
        tokenizer = self._tokenizer()
        if tokenizer is not None:
            for before in ("", SENTINEL):
                ids = self._after(before, tokenizer.encode(before + text, add_special=False))
                if b"".join(self.tokens[id] for id in ids) == text.encode():
                    return ids
        return self.greedy(text)  # a normalizer changes the text

    def _after(self, before: str, ids: list[int]) -> list[int]:
        """What follows the sentinel."""
        starts = (at + 1 for at, id in enumerate(ids) if self.tokens[id] == before.encode())
        return ids[next(starts, 0) :] if before else ids
