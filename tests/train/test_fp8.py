"""FP8 blocks: codes are torch's, errors are those of three bits of mantissa, gradients come through."""

import pytest

torch = pytest.importorskip("torch")

from whimbrel.train import fp8


def test_codes_and_scales_are_blockwise_e4m3() -> None:
    """Against one block at a time, written out; sizes that are no multiples of 128 too."""
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(200, 300, generator=generator), torch.randn(5, 300, generator=generator) * 100
    codes, scales = fp8.quantize_weight(weight)
    assert codes.dtype == torch.float8_e4m3fn and scales.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            part = weight[i * 128 : i * 128 + 128, j * 128 : j * 128 + 128]
            assert scales[i, j] == part.abs().max() / 448
            expected = (part / scales[i, j]).to(torch.float8_e4m3fn).float()
            assert torch.equal(codes[i * 128 : i * 128 + 128, j * 128 : j * 128 + 128].float(), expected)
    codes, scales = fp8.quantize_activations(x)
    for j in range(3):
        part = x[:, j * 128 : j * 128 + 128]
        assert torch.equal(scales[:, j], part.abs().amax(1) / 448)
        assert torch.equal(
            codes[:, j * 128 : j * 128 + 128].float(), (part / scales[:, j, None]).to(torch.float8_e4m3fn).float()
        )


def test_errors_are_those_of_the_format() -> None:
    x, weight = torch.randn(64, 256), torch.randn(96, 256)
    for exact, found in (
        (x, fp8.dequantize_activations(*fp8.quantize_activations(x))),
        (weight, fp8.dequantize_weight(*fp8.quantize_weight(weight))),
        (x @ weight.t(), fp8.fp8_linear(x, weight)),
    ):
        assert 0.01 < ((exact - found).norm() / exact.norm()).item() < 0.05
    assert not fp8.fp8_linear(torch.zeros(2, 256), weight).any()


def test_gradients_are_those_of_the_product() -> None:
    """The input's within FP8's error, the weight's within bf16's."""
    x, weight = torch.randn(64, 256, requires_grad=True), torch.randn(96, 256, requires_grad=True)
    gradient = torch.randn(64, 96)
    fp8.fp8_linear(x, weight).backward(gradient)
    assert x.grad is not None and weight.grad is not None
    exact = gradient @ weight.detach(), gradient.t() @ x.detach()
    assert ((x.grad - exact[0]).norm() / exact[0].norm()).item() < 0.05
    assert ((weight.grad - exact[1]).norm() / exact[1].norm()).item() < 0.005
