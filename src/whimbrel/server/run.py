"""``serve``: run the application until it is told to stop; then let running answers finish."""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from whimbrel.errors import WriteError
from whimbrel.server import sockets
from whimbrel.server.app import create_app
from whimbrel.server.loading import check_models, usual_load
from whimbrel.server.pool import Load
from whimbrel.server.service import Service
from whimbrel.server.settings import ServerSettings

GRACE_SECONDS = 2.0
"""Between telling what still runs that it is over, and closing its connections."""

SWITCH_SECONDS = 1e-4
"""How long the event loop waits before it makes the engine's thread let go of the interpreter's lock. Kernels let go of it
for microseconds, again and again, which restarts the usual 5 ms each time: the loop then got its turn after 200 ms, and
pieces came in lumps. With this it takes 7 ms at most, and tokens come as fast as before."""


class _Server(uvicorn.Server):
    """Tells where it listens; a first signal lets answers finish, a second one doesn't."""

    def __init__(self, config: uvicorn.Config, service: Service, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._tell = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Instead of uvicorn's, which raises the signal again in the end: a stop that was asked for is no failure."""
        self._service.stopping = True
        if self.should_exit:
            self.force_exit = True
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is broken off now is no fault
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        end = asyncio.get_running_loop().call_later(self._service.settings.stop_timeout, self._service.end_answers)
        await super().shutdown(sockets)
        end.cancel()


def serve(settings: ServerSettings, listening: Callable[[str], None], load: Load | None = None) -> None:
    """Block until SIGINT or SIGTERM; ``listening`` is told the address when requests are taken.

    ``load``: see ``Service``; None also checks that all models are here.
    Raises ``ModelNotFound``, ``WriteError`` for a folder of documents that can't be made, and ``WhimbrelError`` where
    the address is taken: all before anything is loaded.
    """
    if load is None:
        check_models(settings)
    if settings.files is not None:
        _make_folder(settings.files)
    found = sockets.bound(settings.host, settings.port, give_up=settings.write_seconds)
    sys.setswitchinterval(SWITCH_SECONDS)
    app = create_app(settings, load or usual_load(settings))
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=round(settings.stop_timeout + GRACE_SECONDS),
        timeout_keep_alive=65,  # longer than the usual 60 s of proxies and pools in front
        h11_max_incomplete_event_size=64 * 1024,
    )
    address = sockets.address(found)
    server = _Server(config, app.state.service, lambda: listening(address))
    server.run(sockets=found)
    if not server.started:
        sys.exit(1)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"documents can't be kept in {folder}: {error.strerror}; give another --files") from None
