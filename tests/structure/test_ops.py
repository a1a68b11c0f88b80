"""The op folders are alike: the same files, a specification that answers the same questions, unique case names."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest

from whimbrel import ops
from whimbrel.ops import dispatch

EVERY_OP = pytest.mark.parametrize("name", dispatch.names())
FOLDER = Path(ops.__file__).parent


@EVERY_OP
def test_every_op_folder_has_the_same_files(name: str) -> None:
    files = {path.name for path in (FOLDER / name).iterdir() if path.name != "__pycache__"}
    # Triton only where torch's own kernels don't do: for the norms and matrices of a decoder they do
    assert files - {"triton.py"} == {"__init__.py", "reference.py", "native.py", "cases.py"}


def test_sparse_attention_has_triton_kernels() -> None:
    with_triton = {path.parent.name for path in FOLDER.glob("*/triton.py")}
    assert with_triton == {"semantic_kernels", "block_scores", "select_blocks", "attend"}


@EVERY_OP
def test_every_specification_answers_the_same_questions(name: str) -> None:
    module = import_module(f"whimbrel.ops.{name}")
    text = module.__doc__ or ""
    assert text.startswith(f"{name}: ")
    for heading in ("\nFor: ", "\nIn: ", "\nOut: ", "\nMay not: ", "\nAccumulation: "):
        assert heading in text, heading.strip()
    assert "ifferentiable" in text
    assert dispatch.Op.of(module.__name__) == module.OP == dispatch.get(name)
    assert inspect.signature(getattr(module, name)).parameters["impl"].default == "auto"


@EVERY_OP
def test_implementations_take_the_arguments_of_the_specification(name: str) -> None:
    """Names, kinds and defaults agree, but for ``activations``, which the table binds."""
    public = inspect.signature(getattr(import_module(f"whimbrel.ops.{name}"), name)).parameters
    specified = [(key, value.kind, value.default) for key, value in public.items() if key != "impl"]
    for impl in dispatch.IMPLEMENTATIONS:
        if dispatch.get(name).why_not(impl) is not None:
            continue
        run = inspect.signature(dispatch.get(name).choose(impl)).parameters
        assert [(key, value.kind, value.default) for key, value in run.items() if key != "activations"] == specified


@EVERY_OP
def test_cases_have_unique_names_and_build_without_torch(name: str) -> None:
    cases = import_module(f"whimbrel.ops.{name}.cases").CASES
    assert len({case.name for case in cases}) == len(cases) > 5
    assert cases[0].arrays(seed=1).keys() == cases[-1].arrays(seed=2).keys()


def test_torch_is_imported_by_references_and_triton_kernels_only() -> None:
    importers = {
        path for path in FOLDER.rglob("*.py") if "import torch" in path.read_text() or "from torch" in path.read_text()
    }
    assert {path.name for path in importers} == {"reference.py", "triton.py"}


def test_ops_know_nothing_above_them() -> None:
    below = {"errors", "hardware", "formats", "ops", "_native"}
    for path in FOLDER.rglob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] in ("from", "import") and words[1].startswith("whimbrel."):
                assert words[1].split(".")[1] in below, f"{path}: {line}"
