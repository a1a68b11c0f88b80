"""What every test lives with: sockets reach loopback only, and models are kept in a folder of the test's own."""

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same commit tries the same examples: a run is green or red by what was changed. `HYPOTHESIS_PROFILE=default` searches
# further, with examples that differ from run to run.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

_LOOPBACK = {"127.0.0.1", "::1", "localhost", "0.0.0.0", ""}


class NetworkForbidden(RuntimeError):
    """A test tried to leave this machine."""


@pytest.fixture(autouse=True)
def the_logs_own_settings() -> Iterator[None]:
    """A command that runs in the test's process (``--quiet``) leaves the root logger as it found it."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(autouse=True, scope="session")
def loopback_only() -> Iterator[None]:
    """Refuse every connection that leaves the machine; name resolution of other hosts too."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in {socket.AF_INET, socket.AF_INET6} and address[0] not in _LOOPBACK:
            raise NetworkForbidden(f"a test tried to connect to {address}")
        return connect(self, address)

    def lookup(host: Any, *rest: Any, **options: Any) -> Any:
        if host is not None and str(host) not in _LOOPBACK:
            raise NetworkForbidden(f"a test tried to resolve {host!r}")
        return resolve(host, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        patch.setattr(socket, "getaddrinfo", lookup)
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, and no settings from outside."""
    from whimbrel import hardware

    for name in hardware.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "whimbrel-home"
    monkeypatch.setenv("WHIMBREL_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The file of the real default model, where `whimbrel pull smollm2-135m` has put it; else the test is skipped."""
    from whimbrel.zoo.store import Store

    record = Store().get("smollm2-135m")
    if record is None or not Path(record.path).is_file():
        pytest.skip("needs the real model: whimbrel pull smollm2-135m")
    return Path(record.path)
