"""Blocks chosen by Triton's kernels give the loss and the gradients that the reference's choice gives."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import numpy as np
from tiny_model import CONFIG

from whimbrel.attention.sparse import SparseConfig
from whimbrel.train.batches import Batch
from whimbrel.train.device import DeviceRope
from whimbrel.train.ops import training_ops
from whimbrel.train.parametrization import Optimizer, initial_parameters
from whimbrel.train.pretrain import token_loss

LENGTHS = (400, 60, 1, 260)
SPARSE = replace(
    CONFIG, sparse=SparseConfig(topk=2, window_size=64, dense_len=-1), max_position_embeddings=max(LENGTHS)
)


def loss_and_gradients() -> tuple[float, list[float]]:
    total = sum(LENGTHS)
    ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, total).astype(np.int32)
    positions = np.concatenate([np.arange(length) for length in LENGTHS]).astype(np.int32)
    batch = Batch(ids, np.roll(ids, -1).astype(np.int64), positions, np.cumsum([0, *LENGTHS]).astype(np.int32))
    parameters = initial_parameters(SPARSE, Optimizer(parametrization="standard"), 0)
    rope = DeviceRope(SPARSE, max(LENGTHS), torch.device("cpu"))
    loss = token_loss(SPARSE, parameters, training_ops(), rope, batch)
    loss.backward()
    gradients = [tensor.grad.norm().item() for tensor in parameters.values() if tensor.grad is not None]
    return loss.item(), gradients


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="compares with the path without Triton")
def test_triton_chooses_as_the_reference_does() -> None:
    command = [sys.executable, __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120)
    loss, gradients = json.loads(done.stdout)
    wanted, wanted_gradients = loss_and_gradients()
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert gradients == pytest.approx(wanted_gradients, rel=1e-3)


if __name__ == "__main__":
    print(json.dumps(loss_and_gradients()))
