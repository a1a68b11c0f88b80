"""Training on a device: everything follows the parameters there, refusals have names, and CUDA gives the CPU's losses.

Where there is no GPU, a made-up device stands in: tensors without data that know where they are, so that every op that
mixes devices is an error (torch's fake tensors). That finds what was left behind on the CPU; numbers it can't check.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_model import CONFIG, counting_shard
from torch.utils import backend_registration

from whimbrel.attention.sparse import SparseConfig
from whimbrel.errors import InvalidParameter, UnsupportedCapability
from whimbrel.models.rope import rope_table
from whimbrel.train.batches import Batches
from whimbrel.train.causal_attention import causal_attention
from whimbrel.train.device import DeviceRope
from whimbrel.train.lora import Lora, lora_parameters
from whimbrel.train.mtp import mtp_parameters
from whimbrel.train.ops import training_ops
from whimbrel.train.padded_attention import Padding, padded_attention
from whimbrel.train.parameters import Parameters
from whimbrel.train.parametrization import Optimizer, initial_parameters
from whimbrel.train.pretrain import Student, evaluate_loss, token_loss, train_model
from whimbrel.train.processes import backward
from whimbrel.train.recipe import BatchShape, Recipe
from whimbrel.train.recipe_file import read_recipe
from whimbrel.train.schedule import WSD

RECIPE = Recipe(
    schedule=WSD(peak=0.01, warmup=2, total=8, decay=4),
    optimizer=Optimizer(parametrization="standard"),
    batch=BatchShape(sequence=32, rows=4),
    log_every=1,
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch finds none")


@pytest.mark.parametrize("lengths", [[7], [40, 40, 1, 300, 128, 129, 3], list(range(1, 40))])
def test_padded_attention_is_packed_attention(lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    bounds = np.cumsum([0, *lengths]).astype(np.int32)
    pieces = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    padding = Padding(bounds, torch.device("cpu"))
    assert padding.rows <= 2 * bounds[-1] and len(padding.buckets) <= 10
    tensors = [torch.randn(int(bounds[-1]), n, 16, generator=generator) for n in (6, 2, 2)]
    ours, theirs = ([x.clone().requires_grad_() for x in tensors] for _ in range(2))
    gradient = torch.randn(int(bounds[-1]), 6, 16, generator=generator)
    found, wanted = padded_attention(*ours, padding, 0.3), causal_attention(*theirs, pieces, 0.3)
    assert torch.allclose(found, wanted, atol=1e-5)
    found.backward(gradient)
    wanted.backward(gradient)
    assert all(torch.allclose(a.grad, b.grad, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def test_a_table_on_the_device_is_the_table(tmp_path: Path) -> None:
    """Bit by bit, and for batches one after another."""
    batches = Batches(counting_shard(tmp_path), sequence=32, rows=4)
    parameters = initial_parameters(CONFIG, RECIPE.optimizer)
    ops, rope = training_ops(), DeviceRope(CONFIG, 32, torch.device("cpu"))
    for step in range(3):
        batch = batches.batch(step)
        ours, plain = (token_loss(CONFIG, parameters, ops, x, batch) for x in (rope, rope_table(CONFIG, 32)))
        assert ours.item() == plain.item()


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="device 'gpu' is unknown; choose cpu or cuda"):
        replace(RECIPE, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UnsupportedCapability, match="finds no CUDA device here"):
            train_model(CONFIG, replace(RECIPE, device="cuda"), counting_shard(tmp_path), tmp_path / "run")
        assert not (tmp_path / "run").exists()
        with pytest.raises(UnsupportedCapability, match="finds no CUDA device here"):
            evaluate_loss(tmp_path / "run", tmp_path / "v.shard", device="cuda")


def test_a_recipe_file_names_its_device(tmp_path: Path) -> None:
    text = (
        '[model]\nfrom = "model"\n[data]\nshards = "a.shard"\n[run]\ndevice = "cuda"\n'
        '[schedule]\nname = "cosine"\npeak = 0.01\nwarmup = 2\ntotal = 8\n'
    )
    (tmp_path / "recipe.toml").write_text(text)
    assert read_recipe(tmp_path / "recipe.toml", "pretrain").recipe.device == "cuda"
    (tmp_path / "recipe.toml").write_text(text.replace('"cuda"', '"tpu"'))
    with pytest.raises(InvalidParameter, match="recipe.toml: device 'tpu' is unknown"):
        read_recipe(tmp_path / "recipe.toml", "pretrain")


CASES: dict[str, dict[str, object]] = {
    "fp32": {},
    "two parts": {"batch": BatchShape(sequence=32, rows=4, parts=2)},
    "mtp, recomputed": {"mtp": 0.3, "recompute": True},
    "fp8": {"precision": "fp8"},
    "lora": {},
    "sparse": {},
}
SPARSE = replace(CONFIG, sparse=SparseConfig(topk=2, window_size=0, dense_len=-1, use_nope=True))


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason=f"torch {torch.__version__} can't make up a device from Python",
)
def test_everything_follows_the_parameters(tmp_path: Path) -> None:
    """Forward, backward and the optimizer's step, in a process of its own, since a device is known to all of torch."""
    done = subprocess.run(
        [sys.executable, __file__, str(counting_shard(tmp_path))],
        check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [*CASES, "a mixture is an error"]


def elsewhere(parameters: Parameters, place: torch.device) -> Parameters:
    """New ones: ``device.move`` is for devices that hold data."""
    return {name: torch.nn.Parameter(tensor.detach().to(place)) for name, tensor in parameters.items()}


@contextlib.contextmanager
def no_data() -> Iterator[None]:
    """What sparse attention asks of data, whether all rows are dense and how many: no, and none."""
    answers = {"__bool__": lambda self: False, "__int__": lambda self: 0}
    with mock.patch.multiple(torch.Tensor, **answers):
        yield


def steps_elsewhere(path: str) -> None:
    """A step of each case on a device that is none."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    backend_registration._setup_privateuseone_for_python_backend("elsewhere")
    torch.elsewhere.get_amp_supported_dtype = lambda: [torch.bfloat16]  # type: ignore[attr-defined]
    place = torch.device("elsewhere", 0)
    for name, changes in CASES.items():
        batches = Batches(path, sequence=32, rows=4)
        config = SPARSE if name == "sparse" else CONFIG
        with FakeTensorMode(), no_data():
            recipe = replace(RECIPE, **changes)  # type: ignore[arg-type]
            parameters, base = initial_parameters(CONFIG, RECIPE.optimizer), None
            lora = Lora() if name == "lora" else None
            if lora is not None:
                base, parameters = parameters, lora_parameters(parameters, lora)
            if recipe.mtp:
                parameters |= mtp_parameters(CONFIG, parameters)
            parameters, base = elsewhere(parameters, place), base and elsewhere(base, place)
            optimizer = torch.optim.AdamW(parameters.values())
            student = Student(config, parameters, recipe, base, lora)
            _, values = backward(student.losses(batches.batch(0)))
            torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            optimizer.step()
            assert {x.device for x in [*values, *(p.grad for p in parameters.values())]} == {place}, name
        print(name)
    with FakeTensorMode():
        half = initial_parameters(CONFIG, RECIPE.optimizer)
        half |= elsewhere({"lm_head.weight": half["lm_head.weight"]}, place)
        try:
            backward(Student(CONFIG, half, RECIPE).losses(batches.batch(0)))
        except RuntimeError as error:
            print("a mixture is an error" if "elsewhere:0" in str(error) else error)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cuda_trains_like_the_cpu(tmp_path: Path, precision: str) -> None:
    data = counting_shard(tmp_path)
    asked = replace(RECIPE, precision=precision, mtp=0.3, batch=BatchShape(sequence=32, rows=4, parts=2))
    cpu = train_model(CONFIG, asked, data, tmp_path / "cpu", held_out=data)
    cuda = train_model(CONFIG, replace(asked, device="cuda"), data, tmp_path / "cuda", held_out=data)
    tolerance = 1e-3 if precision == "fp32" else 0.02
    assert [x for _, x in cuda.curve] == pytest.approx([x for _, x in cpu.curve], rel=tolerance)
    assert cuda.held_out_loss == pytest.approx(cpu.held_out_loss, rel=tolerance)
    assert evaluate_loss(cuda.checkpoint, data, sequence=32) == pytest.approx(cuda.held_out_loss, rel=tolerance)


@pytest.mark.gpu
@needs_cuda
def test_a_run_changes_its_device(tmp_path: Path) -> None:
    """Half of it on CUDA, the rest on the CPU."""
    data = counting_shard(tmp_path)
    whole = train_model(CONFIG, RECIPE, data, tmp_path / "cpu")
    train_model(
        CONFIG, replace(RECIPE, device="cuda"), data, tmp_path / "run", watchers=[lambda line: line["step"] == 3]
    )
    rest = train_model(CONFIG, RECIPE, data, tmp_path / "run")
    assert [x for _, x in rest.curve] == pytest.approx([x for _, x in whole.curve], rel=1e-3)


if __name__ == "__main__":
    steps_elsewhere(sys.argv[1])
