"""The tier that compares with programs no one here wrote: ``make test-peers``, or ``pytest tests -m peers``.

It needs the extra ``peers`` and the default model, and takes minutes. What the peers answered is kept in
``tests/recorded/llama_cpp.json``; the default tier checks against that, without the peers.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from whimbrel.bench.engine import EngineSide
from whimbrel.bench.worker import LLAMA_CPP, RemoteSide
from whimbrel.errors import ModelNotFound
from whimbrel.zoo.store import resolve

HERE = Path(__file__).parent
THREADS = 1
"""llama.cpp's threads spin while they wait for each other: beside other work, two are much slower than one."""
RECORDED = HERE.parent / "recorded" / "llama_cpp.json"


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker."""
    config.addinivalue_line("markers", "peers: compares with other programs; run by `make test-peers`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Everything in this folder is of the tier, and skipped where the tier was not asked for."""
    asked = "peers" in (config.option.markexpr or "")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.peers)
            item.add_marker(pytest.mark.timeout(1800))
            if not asked:
                item.add_marker(pytest.mark.skip(reason="peers: run `make test-peers`"))


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The default model's file."""
    try:
        return resolve("smollm2-135m")
    except ModelNotFound as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def peer(model_path: Path) -> Iterator[RemoteSide]:
    """The default model in llama.cpp, in a process of its own.

    It sets up a thread's AMX tiles once and believes that nobody else does: kernels of two libraries in one thread end
    in SIGILL.
    """
    with RemoteSide(LLAMA_CPP, {"path": str(model_path), "threads": THREADS}) as side:
        yield side


@pytest.fixture(scope="session")
def ours(model_path: Path) -> EngineSide:
    """The same file in our engine."""
    return EngineSide(model_path, max_context=4096)


@pytest.fixture(scope="session")
def exact(model_path: Path) -> EngineSide:
    """The same file without rounded activations or cache: fp32 torch reference over the stored weights."""
    return EngineSide(model_path, max_context=1024, implementation="reference", kv_dtype="f32")


@pytest.fixture(scope="session")
def record(model_path: Path, peer: RemoteSide) -> Iterator[dict[str, Any]]:
    """What the peer answered; written at the end of the session, where WRITE is set in the environment."""
    found: dict[str, Any] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    found["peer"] = dict(peer.describe())
    found["model"] = model_path.name
    yield found
    if os.environ.get("WRITE"):
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(found.items())]
        RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
