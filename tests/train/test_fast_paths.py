"""What training computes faster is what torch computes: attention over packed pieces, and the loss of the head."""

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional

from whimbrel.train.batches import IGNORED
from whimbrel.train.causal_attention import causal_attention
from whimbrel.train.head_loss import head_loss

PIECES = [(0, 40), (40, 80), (80, 81), (81, 381), (381, 509), (509, 637)]


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
def test_attention_of_pieces(heads: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v, g = (
        torch.randn(637, n, 16, generator=generator, dtype=torch.float64) for n in (heads, groups, groups, heads)
    )
    ours = [x.float().requires_grad_() for x in (q, k, v)]
    causal_attention(*ours, PIECES, 0.3).backward(g.float())
    exact = [x.clone().requires_grad_() for x in (q, k, v)]
    parts = []
    for first, end in PIECES:
        a, b, c = (x[first:end].transpose(0, 1)[None] for x in exact)
        out = functional.scaled_dot_product_attention(a, b, c, is_causal=True, scale=0.3, enable_gqa=True)
        parts.append(out[0].transpose(0, 1))
    whole = torch.cat(parts)
    whole.backward(g)
    assert torch.allclose(causal_attention(*ours, PIECES, 0.3).double(), whole, atol=1e-5)
    for found, wanted in zip(ours, exact, strict=True):
        assert found.grad is not None and wanted.grad is not None
        assert torch.allclose(found.grad.double(), wanted.grad, atol=1e-5)


@pytest.mark.parametrize("bf16", [False, True])
def test_loss_of_the_head(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whimbrel.train.head_loss.ELEMENTS", 64 * 100)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(150, 24, generator=generator), torch.randn(100, 24, generator=generator)
    targets = torch.randint(0, 100, (150,), generator=generator)
    targets[::7] = IGNORED
    ours = [x.clone().requires_grad_() for x in (hidden, weight)]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = head_loss(*ours, targets)
    (3 * loss).backward()
    exact = [x.double().requires_grad_() for x in (hidden, weight)]
    wanted = functional.cross_entropy(exact[0] @ exact[1].t(), targets, ignore_index=IGNORED, reduction="sum")
    (3 * wanted).backward()
    tolerance = 0.02 if bf16 else 1e-5
    assert loss.item() == pytest.approx(wanted.item(), rel=tolerance)
    for found, true in zip(ours, exact, strict=True):
        assert found.grad is not None and true.grad is not None
        assert (found.grad - true.grad).norm() < tolerance * true.grad.norm()
    with torch.no_grad():
        assert head_loss(hidden, weight, targets).item() == pytest.approx(wanted.item(), rel=1e-5)
