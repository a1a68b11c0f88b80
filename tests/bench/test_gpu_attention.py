"""The benchmark of the GPU kernels: which peer it compares with; its whole path under the interpreter."""

import json

import pytest

pytest.importorskip("triton")
pytest.importorskip("torch")
from whimbrel.bench import gpu_attention
from whimbrel.ops.triton import INTERPRETED, why_not_here


def test_ours_is_compared_with_the_best_dense_peer_of_its_phase() -> None:
    lines = [
        {"phase": "training", "name": "flash", "total_ms": 30.0},
        {"phase": "training", "name": "cudnn", "total_ms": 20.0},
        {"phase": "decode", "name": "flash", "forward_ms": 1.0},
        {"phase": "training", "name": "whimbrel random", "total_ms": 4.0, "selecting_ms": 1.0},
    ]
    ours = gpu_attention.with_ratios(lines)[-1]
    assert (ours["best_dense"], ours["speedup"], ours["speedup_with_selection"]) == ("cudnn", 5.0, 4.0)
    assert "best_dense" not in lines[0]


def test_without_a_device_it_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    if why_not_here() is None:
        pytest.skip("kernels run here")
    assert gpu_attention.main([]) == 1
    assert "there is no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("length", [128, 1024])
def test_the_peer_s_mask_is_causal(length: int) -> None:
    attention = pytest.importorskip("torch.nn.attention.flex_attention")
    ours = gpu_attention.causal_blocks(length, "cpu")
    wanted = attention.create_block_mask(lambda b, h, i, j: i >= j, None, None, length, length, device="cpu")
    assert ours.to_dense().equal(wanted.to_dense()) and ours.full_kv_num_blocks.equal(wanted.full_kv_num_blocks)


@pytest.mark.interp
@pytest.mark.slow
@pytest.mark.skipif(not INTERPRETED, reason="on a GPU the command itself is the test")
def test_the_whole_path_runs(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--lengths", "128", "--heads", "4", "--dim", "16", "--blocks", "2", "--repeats", "1", "--json"]
    assert gpu_attention.main(sizes) == 0
    lines = json.loads(capsys.readouterr().out)["lines"]
    assert {line["phase"] for line in lines} == {"training", "prefill", "decode"}
    assert all(line["speedup"] > 0 for line in lines if line["name"].startswith("whimbrel"))
