"""The peer where it is not installed; where it is, ``tests/peers`` has it."""

import sys

import numpy as np
import pytest

from whimbrel.bench import llama_cpp
from whimbrel.bench.peer import likeliest, log_softmax
from whimbrel.errors import MissingExtra


def test_without_the_binding_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(MissingExtra, match="peer_build"):
        llama_cpp.binding.__wrapped__()


def test_log_softmax_of_large_logits() -> None:
    logits = np.array([[1000.0, 1000.0], [0.0, -1e4]], np.float32)
    assert np.allclose(log_softmax(logits), [[-np.log(2), -np.log(2)], [0.0, -1e4]])


def test_likeliest_are_in_order_and_the_smaller_id_wins_a_tie() -> None:
    logprobs = np.array([-3.0, -1.0, -2.0, -1.0])
    assert likeliest(logprobs, 3) == ((1, -1.0), (3, -1.0), (2, -2.0))
    assert likeliest(logprobs, 0) == ()
    assert likeliest(logprobs, 1) == ((1, -1.0),)
