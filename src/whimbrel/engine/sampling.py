"""From one row of logits to one token: pure functions, a row at a time, so that no row depends on another.

Shapes: V vocabulary, R rows. Randomness is a function of (seed, index of the token): no generator, no state. The same
request gives the same tokens, whatever runs beside it, however its prompt is cut and whatever is preempted.
"""

import struct
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.engine.constrain import Row
from whimbrel.engine.request import Sequence, TokenLogprob
from whimbrel.errors import WhimbrelError
from whimbrel.ops.sample import log_normalizer, top_logprobs


def choose_tokens(logits: Row, sequence: Sequence, sample: Callable[..., Any]) -> tuple[int, ...]:
    """What comes next in a sequence, from its row of logits [V]: a token, and those that its grammar forces then.

    Where each token needs a pass of its own (``Sequence.jumps``) a forced one comes alone; it is the same one.
    Raises ``WhimbrelError`` if the network gave no number to choose by, or everything was forbidden.
    """
    if sequence.constraint is None:
        return (choose_token(logits, sequence, sample),)
    first = sequence.constraint.forced(sequence.generated)[:1] or (choose_token(logits, sequence, sample),)
    return run_ahead(sequence, first)


def run_ahead(sequence: Sequence, first: tuple[int, ...] = ()) -> tuple[int, ...]:
    """``first``, then the tokens that the grammar forces, to the end of the sequence at most; its matcher follows.

    Raises ``WhimbrelError`` if the grammar ends the answer before ``min_tokens``.
    """
    constraint, stops, tokens = sequence.constraint, sequence.stops, first
    assert constraint is not None
    constraint.advance(tokens)
    while sequence.jumps and len(tokens) < sequence.room and stops.isdisjoint(tokens):
        run = constraint.forced(sequence.generated + len(tokens))
        if not run:
            break
        constraint.advance(run)
        tokens += run
    end = next((at + 1 for at, token in enumerate(tokens) if token in stops), len(tokens))
    tokens = tokens[: min(end, sequence.room)]
    if tokens and tokens[-1] in stops and sequence.generated + len(tokens) <= sequence.params.min_tokens:
        raise WhimbrelError(
            f"the answer's shape ends after {sequence.generated + len(tokens)} tokens and min_tokens="
            f"{sequence.params.min_tokens} forbids that; lower it"
        )
    return tokens


def choose_token(logits: Row, sequence: Sequence, sample: Callable[..., Any]) -> int:
    """One token from a row of logits [V]; ``sample`` is the bound op. Raises as ``choose_tokens`` does."""
    params = sequence.params
    if params.changes_logits:
        logits = adjust(logits, sequence)
    if sequence.constraint is not None:
        if params.logprobs is not None and not params.changes_logits:
            logits = logits.copy()  # log-probabilities are those before; else in place, a copy takes 20 µs
        sequence.constraint.mask(logits, sequence.generated)
    if params.temperature == 0:
        token = int(logits.argmax())
        if not np.isfinite(logits[token]):
            raise WhimbrelError(_no_choice(logits[token]))
        return token
    try:
        token, _ = sample(
            logits,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            typical_p=params.typical_p,
            uniform=uniform(sequence.seed, sequence.generated),
        )
    except ValueError as error:
        raise WhimbrelError(_no_choice(logits.max())) from error
    return int(token)


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) for the token ``index`` of a request: 53 bits of blake2b(seed, index)."""
    digest = blake2b(struct.pack("<QQ", seed, index), digest_size=8).digest()
    return float((int.from_bytes(digest, "little") >> 11) * 2.0**-53)


def adjust(logits: Row, sequence: Sequence) -> Row:
    """A copy of the row [V] after penalties, biases and ``min_tokens``."""
    params = sequence.params
    row = logits.copy()
    if params.repetition_penalty != 1:
        penalize_repetition(row, _seen(sequence, len(row)), params.repetition_penalty)
    if params.presence_penalty or params.frequency_penalty:
        counts = _counts(sequence, len(row))
        penalize_occurrence(row, counts, params.presence_penalty, params.frequency_penalty)
    for token_id, bias in params.logit_bias.items():
        row[token_id] += bias
    if sequence.generated < params.min_tokens:
        row[list(sequence.stops)] = -np.inf
    return row


def penalize_repetition(row: Row, seen: npt.NDArray[np.bool_], penalty: float) -> None:
    """In place: positive logits of the tokens in ``seen`` [V] are divided by ``penalty``, negative ones multiplied.

    Source: Keskar et al. (2019), CTRL, section 4.1, in the form that ``transformers`` gave it.
    """
    ids = np.flatnonzero(seen)
    scores = row[ids]
    row[ids] = np.where(scores < 0, scores * np.float32(penalty), scores / np.float32(penalty))


def penalize_occurrence(row: Row, counts: npt.NDArray[np.int32], presence: float, frequency: float) -> None:
    """In place: subtract ``presence`` once and ``frequency`` per occurrence from tokens with ``counts`` [V] > 0."""
    ids = np.flatnonzero(counts)
    row[ids] -= np.float32(presence) + np.float32(frequency) * counts[ids].astype(np.float32)


def note_token(sequence: Sequence, token: int) -> None:
    """Keep the penalties' memory in step with the sequence."""
    if sequence.seen is not None:
        sequence.seen[token] = True
    if sequence.counts is not None:
        sequence.counts[token] += 1


def token_logprobs(logits: npt.NDArray[np.float32], targets: Iterable[int], top: int) -> list[TokenLogprob]:
    """The log-probability of each row's target under logits [R, V], with the ``top`` likeliest tokens."""
    scores = []
    for row, target in zip(logits, targets, strict=True):
        logprob = float(row[target]) - log_normalizer(row)
        scores.append(TokenLogprob(target, logprob, tuple(top_logprobs(row, top)) if top else ()))
    return scores


def _seen(sequence: Sequence, vocab_size: int) -> npt.NDArray[np.bool_]:
    if sequence.seen is None:
        sequence.seen = np.zeros(vocab_size, np.bool_)
        sequence.seen[sequence.tokens] = True
    return sequence.seen


def _counts(sequence: Sequence, vocab_size: int) -> npt.NDArray[np.int32]:
    if sequence.counts is None:
        written = np.array(sequence.tokens[sequence.prompt_length :], np.int64)
        sequence.counts = np.bincount(written, minlength=vocab_size).astype(np.int32)
    return sequence.counts


def _no_choice(largest: Any) -> str:
    return (
        f"no token can be chosen: the largest logit is {largest}; "
        "the weights may be damaged (verify the file), or logit_bias, min_tokens and the answer's shape leave no token"
    )
