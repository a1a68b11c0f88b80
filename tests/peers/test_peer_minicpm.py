"""A random MiniCPM checkpoint gives the same scores here, from both formats, and in llama.cpp (arch ``minicpm``).

Weights are F32, so what is left is the rounding of activations and cache. The bound is the one of all kernels: native
may be twice as far from the exact scores as llama.cpp is. Reference and native run both.
"""

from pathlib import Path

import numpy as np
import pytest
from minicpm_gguf import convert

from whimbrel.bench.engine import EngineSide
from whimbrel.bench.side import Scores, Side
from whimbrel.bench.worker import LLAMA_CPP, RemoteSide
from whimbrel.testing.tiny import VOCAB_SIZE, write_checkpoint

LENGTH = 90
TOP = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with random weights."""
    return write_checkpoint(tmp_path_factory.mktemp("minicpm"), "minicpm", seed=3)


@pytest.fixture(scope="module")
def gguf(folder: Path) -> Path:
    """The same as GGUF."""
    return convert(folder, folder / "minicpm.gguf")


@pytest.fixture(scope="module")
def exact(folder: Path) -> Scores:
    """fp32 reference from the Hugging Face folder."""
    return score(EngineSide(folder, max_context=512, implementation="reference", kv_dtype="f32"))


def token_ids() -> list[int]:
    """Random ids, special tokens left out."""
    return np.random.default_rng(5).integers(5, VOCAB_SIZE, LENGTH).tolist()


def score(side: Side) -> Scores:
    """Scores of all places but the first."""
    return side.score(token_ids(), 1, TOP)


def error(scores: Scores, exact: Scores) -> float:
    """Largest difference of log-probabilities of the actual tokens."""
    return float(np.abs(np.subtract(scores.logprobs, exact.logprobs)).max())


def test_reference_from_gguf_equals_reference_from_the_folder(gguf: Path, exact: Scores) -> None:
    found = score(EngineSide(gguf, max_context=512, implementation="reference", kv_dtype="f32"))
    assert error(found, exact) < 1e-4  # the same fp32 arithmetic on the same numbers


def test_llama_cpp_computes_the_same(gguf: Path, exact: Scores) -> None:
    with RemoteSide(LLAMA_CPP, {"path": str(gguf), "threads": 1}) as side:
        found = score(side)
    print(f"llama.cpp differs by {error(found, exact):.5f}")
    spread = float(np.std(exact.logprobs))
    assert error(found, exact) < spread / 50, "a wrong scale or rotation would differ by as much as the scores vary"
    best = [(mine[0][0], theirs[0][0]) for mine, theirs in zip(found.top, exact.top, strict=True)]
    assert sum(mine == theirs for mine, theirs in best) >= len(best) - 2


def test_native_is_as_good_from_both_formats(folder: Path, gguf: Path, exact: Scores) -> None:
    found = [score(EngineSide(path, max_context=512)) for path in (folder, gguf)]
    print(f"native differs by {error(found[0], exact):.5f} (folder), {error(found[1], exact):.5f} (gguf)")
    assert found[0] == found[1]
    assert error(found[0], exact) < float(np.std(exact.logprobs)) / 50
