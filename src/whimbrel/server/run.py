"""``serve``: run the application until it is told to stop; then let running answers finish."""

import sys
from collections.abc import Callable

import uvicorn

from whimbrel.server.app import create_app
from whimbrel.server.settings import ServerSettings


class _Server(uvicorn.Server):
    """Tells where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[str], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")


def serve(settings: ServerSettings, listening: Callable[[str], None]) -> None:
    """Block until SIGINT or SIGTERM; ``listening`` is told the address when requests are taken.

    Raises SystemExit where the address is taken.
    """
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.stop_timeout)),
        timeout_keep_alive=65,  # longer than the usual 60 s of proxies and pools in front
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = _Server(config, listening)
    server.run()
    if not server.started:
        sys.exit(1)
