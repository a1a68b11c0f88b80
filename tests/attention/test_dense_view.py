"""DenseView: what is written is read, continued and rolled back, with its gradients."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from whimbrel.attention.dense_view import DenseView


def inputs(*sequences: tuple[int, int]) -> Any:
    """(tokens before, tokens of this step) of every sequence."""
    past, new = np.array(sequences).T
    return SimpleNamespace(cu_seqlens=np.concatenate([[0], np.cumsum(new)]), kv_lengths=past + new)


def test_sequences_and_layers_are_kept_apart() -> None:
    view = DenseView(2, 4)
    keys = torch.randn(8, 2, 4)
    view.write(0, keys[:5], -keys[:5], inputs((0, 3), (0, 2)))
    view.write(1, keys[3:], keys[3:], inputs((0, 3), (0, 2)))
    view.write(0, keys[5:], -keys[5:], inputs((3, 1), (2, 2)))
    now = inputs((3, 1), (2, 2))
    torch.testing.assert_close(view.read(0, 0, now)[0], keys[[0, 1, 2, 5]], rtol=0, atol=0)
    torch.testing.assert_close(view.read(0, 1, now)[1], -keys[[3, 4, 6, 7]], rtol=0, atol=0)
    torch.testing.assert_close(view.read(1, 1, inputs((0, 3), (0, 2)))[0], keys[[6, 7]], rtol=0, atol=0)


def test_writing_earlier_forgets_the_rest() -> None:
    view = DenseView(1, 2)
    keys = torch.randn(6, 1, 2)
    view.write(0, keys[:4], keys[:4], inputs((0, 4)))
    view.write(0, keys[4:], keys[4:], inputs((1, 2)))
    torch.testing.assert_close(view.read(0, 0, inputs((1, 2)))[0], keys[[0, 4, 5]], rtol=0, atol=0)


def test_a_gap_is_refused() -> None:
    view = DenseView(1, 2)
    view.write(0, torch.zeros(2, 1, 2), torch.zeros(2, 1, 2), inputs((0, 2)))
    with pytest.raises(ValueError, match="sequence 0 has 2 tokens in layer 0, can't write from 3"):
        view.write(0, torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), inputs((3, 1)))


def test_gradients_survive_appending() -> None:
    view = DenseView(1, 2)
    first, second = (torch.randn(2, 1, 2, requires_grad=True) for _ in range(2))
    view.write(0, first, first, inputs((0, 2)))
    view.write(0, second, 2 * second, inputs((2, 2)))
    keys, values = view.read(0, 0, inputs((2, 2)))
    (keys.sum() + values.sum()).backward()  # type: ignore[no-untyped-call]
    assert first.grad is not None and second.grad is not None
    assert (first.grad == 2).all() and (second.grad == 3).all()
