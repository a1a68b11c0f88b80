"""``serve``: run the application until it is told to stop; then let running answers finish."""

import asyncio
import signal
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from whimbrel.server.app import create_app
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

    def __init__(self, config: uvicorn.Config, service: Service, listening: Callable[[str], None]) -> None:
        super().__init__(config)
        self._service = service
        self._tell = listening

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._tell(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.stopping = True
        if self.should_exit:
            self.force_exit = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        end = asyncio.get_running_loop().call_later(self._service.settings.stop_timeout, self._service.end_answers)
        await super().shutdown(sockets)  # type: ignore[arg-type]
        end.cancel()


def serve(settings: ServerSettings, listening: Callable[[str], None]) -> None:
    """Block until SIGINT or SIGTERM; ``listening`` is told the address when requests are taken.

    Raises SystemExit where the address is taken.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.stop_timeout + GRACE_SECONDS),
        timeout_keep_alive=65,  # longer than the usual 60 s of proxies and pools in front
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = _Server(config, app.state.service, listening)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # uvicorn raises what it caught again at its end: that is no failure
    server.run()
    if not server.started:
        sys.exit(1)
