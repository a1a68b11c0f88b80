"""Answers that a grammar allows, by chance: what a model of no knowledge at all would write."""

import random

import numpy as np

from whimbrel.engine.constrain import Grammar
from whimbrel.models.tokenizer import Tokenizer

ENDS = frozenset(b'"}]),;0 ')
"""Bytes that tend to end something; they are preferred, so that answers come to an end."""


def walk(grammar: Grammar, tokenizer: Tokenizer, seed: int, *, most: int = 600, rows: int | None = None) -> str | None:
    """A text that the grammar allows, chosen token by token; None where it became longer than ``most`` tokens."""
    chance = random.Random(seed)
    matcher, ids = grammar.start(), list[int]()
    while not matcher.is_complete and len(ids) < most:
        run = list(matcher.forced())
        if not run:
            logits = np.zeros(rows or tokenizer.vocab_size, np.float32)
            matcher.mask(logits)
            allowed = np.flatnonzero(np.isfinite(logits)).tolist()
            ending = [id for id in allowed if id in tokenizer.special_ids or tokenizer.token_bytes(id)[-1] in ENDS]
            run = [chance.choice(ending if ending and chance.random() < 0.6 else allowed)]
        matcher.advance(run)
        ids += run
    return tokenizer.decode(ids[:-1]) if matcher.is_complete else None
