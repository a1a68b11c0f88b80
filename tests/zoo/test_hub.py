"""Repositories of a Hub on loopback, through the real huggingface_hub: snapshots, quants, revisions, faults."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakehub import COMMIT, FakeHub

from whimbrel.errors import ModelNotFound
from whimbrel.zoo.hub import choose_files, quant_of

WEIGHTS = random.Random(5).randbytes(400_000)
FOLDER = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"never fetched",
    "original/consolidated.pth": b"never fetched",
}
GGUFS = {"Tiny-Q4_0.gguf": b"GGUF four", "Tiny.Q8_0.gguf": b"GGUF eight", "README.md": b"read me"}

Pull = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub(home: Path) -> Iterator[FakeHub]:
    with FakeHub().running() as site:
        site.repositories = {"org/tiny": dict(FOLDER), "org/tiny-GGUF": dict(GGUFS), "org/nothing": {"README.md": b"-"}}
        yield site


@pytest.fixture
def pull(hub: FakeHub, home: Path, tmp_path: Path) -> Pull:
    """``whimbrel pull`` in a process of its own: huggingface_hub reads its settings once, when it is imported."""
    import os

    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))},
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "WHIMBREL_HOME": str(home),
    }

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "whimbrel", "pull", "--json", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment | more, timeout=120, check=False)

    return run


def record(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    model: dict[str, Any] = json.loads(done.stdout)["model"]
    return model


def test_a_folder_lies_in_the_hubs_cache(pull: Pull, hub: FakeHub, tmp_path: Path) -> None:
    model = record(pull("org/tiny"))
    path = Path(model["path"])
    assert (model["name"], model["kind"], model["revision"]) == ("org/tiny", "hub", COMMIT)
    assert path == tmp_path / "hf" / "hub" / "models--org--tiny" / "snapshots" / COMMIT
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    fetched = [request for request in hub.requests if request[0] == "GET" and "/resolve/" in request[1]]
    again = record(pull("org/tiny"))
    assert again["path"] == model["path"]
    assert len([request for request in hub.requests if request[0] == "GET" and "/resolve/" in request[1]]) == len(
        fetched
    )
    assert record(pull("org/tiny", "--offline"))["path"] == model["path"]
    assert record(pull("org/tiny", HF_HUB_OFFLINE="1"))["path"] == model["path"]


def test_one_gguf_by_its_quant(pull: Pull) -> None:
    model = record(pull("org/tiny-GGUF:q4_0"))
    assert Path(model["path"]).name == "Tiny-Q4_0.gguf"
    assert model["name"] == "org/tiny-GGUF:q4_0"
    several = pull("org/tiny-GGUF")
    assert several.returncode == 3 and "it has Q4_0, Q8_0. Write org/tiny-GGUF:Q4_0" in several.stderr
    assert "no GGUF of kind 'Q5_K_M'; it has Q4_0, Q8_0" in pull("org/tiny-GGUF:Q5_K_M").stderr


def test_an_interrupted_file_resumes(pull: Pull, hub: FakeHub) -> None:
    large = WEIGHTS * 60  # 24 MB: huggingface_hub keeps whole pieces of 10 MB
    hub.repositories["org/tiny"]["model.safetensors"] = large
    hub.cut_after = 12_000_000
    assert (Path(record(pull("org/tiny"))["path"]) / "model.safetensors").read_bytes() == large
    assert any(span and span != "bytes=0-" for method, _, span in hub.requests if method == "GET")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["org/absent"], 3, "no repository org/absent"),
        (["org/tiny@nope"], 3, "no revision 'nope'"),
        (["org/nothing"], 3, "no weights to load"),
        (["org/tiny", "--offline"], 3, "not (whole) in the Hub's cache"),
    ],
)
def test_what_is_not_there(pull: Pull, words: list[str], code: int, says: str) -> None:
    done = pull(*words)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr


def test_gated(pull: Pull, hub: FakeHub) -> None:
    hub.gated.add("org/tiny")
    done = pull("org/tiny")
    assert done.returncode == 1 and "accept its licence" in done.stderr


def test_nobody_answers(pull: Pull) -> None:
    done = pull("org/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1 and "run the same command again" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Model-7B.Q4_K_M.gguf", "Q4_K_M"),
        ("dir/model-q8_0.gguf", "q8_0"),
        ("Big-Q6_K-00001-of-00003.gguf", "Q6_K"),
        ("plain.gguf", "plain"),
    ],
)
def test_the_quant_in_a_file_name(name: str, quant: str) -> None:
    assert quant_of(name) == quant


def test_choosing() -> None:
    assert "*.safetensors" in choose_files("r", ["model.safetensors", "x.gguf"], "")
    assert choose_files("r", ["x-Q4_0.gguf"], "") == ["x-Q4_0.gguf"]
    parts = ["x-Q4_0-00001-of-00002.gguf", "x-Q4_0-00002-of-00002.gguf"]
    assert choose_files("r", parts, "Q4_0") == parts
    with pytest.raises(ModelNotFound):
        choose_files("r", [], "")
