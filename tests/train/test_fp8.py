"""FP8 blocks: codes are torch's, errors are those of three bits of mantissa, gradients come through; Hopper agrees."""

import logging

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


def test_operands_are_laid_out_for_cublas() -> None:
    """Shapes and strides that ``scaled_mm`` checks, of sizes that are no multiples of anything; padding changes nothing."""
    for rows, outputs, inputs in ((5, 200, 300), (16, 128, 128), (33, 640, 1000)):
        x, weight = (
            fp8.quantize_activations(torch.randn(rows, inputs)),
            fp8.quantize_weight(torch.randn(outputs, inputs)),
        )
        for operand in (
            weight,
            (weight[0].t().contiguous().t(), weight[1].t().contiguous().t()),
        ):  # as backward gives it
            a, scale_a, b, scale_b = fp8.scaled_operands(x, operand)
            m, k, n = a.shape[0], a.shape[1], b.shape[1]
            blocks = k // 128
            assert m % 16 == k % 128 == n % 128 == 0 and b.shape[0] == k
            assert a.stride() == (k, 1) and b.stride() == (1, k)
            assert scale_a.shape == (m, blocks) and scale_a.stride(0) == 1 and scale_a.stride(1) in (m, 1)
            padded = -(-blocks // 4) * 4
            assert scale_b.shape == (padded, n // 128) and scale_b.stride() == (1, padded)
            found = fp8.dequantize_activations(a, scale_a) @ fp8.dequantize_weight(b.t(), scale_b.t()[:, :blocks]).t()
            assert torch.allclose(found[:rows, :outputs], fp8._product(x, weight), atol=1e-4)
            assert not found[rows:].any() and not found[:, outputs:].any()


def test_the_path_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    fp8._path.cache_clear()
    with caplog.at_level(logging.INFO, logger="whimbrel.train.fp8"):
        assert {fp8.fp8_path(torch.device("cpu")) for _ in range(3)} == {"emulated"}
    assert [record.message for record in caplog.records] == ["fp8 on cpu: emulated"]


def hopper() -> str | None:
    if not torch.cuda.is_available():
        return "needs a CUDA device of compute capability 9.0; torch finds none"
    return fp8.why_not_hopper(torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(hopper() is not None, reason=str(hopper()))
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(50, 200, 300), (1024, 1536, 640), (4096, 2048, 4096)])
def test_hopper_is_the_emulation(rows: int, outputs: int, inputs: int) -> None:
    """Products and all gradients."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(rows, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator) / 30
    gradient = torch.randn(rows, outputs, generator=generator)
    results = []
    for device in ("cpu", "cuda"):
        a, w = (tensor.to(device).detach().requires_grad_() for tensor in (x, weight))
        out = fp8.fp8_linear(a, w)
        out.backward(gradient.to(device))
        assert a.grad is not None and w.grad is not None
        results.append([tensor.detach().cpu() for tensor in (out, a.grad, w.grad)])
    assert fp8.fp8_path(torch.device("cuda")) == "hopper"
    for wanted, found in zip(*results, strict=True):
        assert ((found - wanted).norm() / wanted.norm()).item() < fp8.AGREEMENT


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch finds none")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(1, 5), (50, 300), (130, 128), (512, 1024)])
def test_one_pass_quantizes_as_torch_does_bit_by_bit(rows: int, columns: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, columns, generator=generator) * torch.logspace(-30, 4, rows)[:, None]
    x[rows // 2] = 0
    x = x.to(dtype)
    for quantize in (fp8.quantize_activations, fp8.quantize_weight):
        (codes, scales), (wanted, wanted_scales) = quantize(x.cuda()), quantize(x)
        assert torch.equal(scales.cpu(), wanted_scales)
        assert torch.equal(codes.cpu().view(torch.uint8), wanted.view(torch.uint8))
