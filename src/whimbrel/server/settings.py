"""ServerSettings: what the command line decides about a server, in one frozen record."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whimbrel.errors import InvalidParameter

MIB = 2**20

_KEY = re.compile(r"[\x21-\x7e]+")

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """How a server listens, whom it lets in, and how much it takes on."""

    models: tuple[str, ...]
    """names or paths; the first one answers requests that name none, and is loaded at once"""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    """options of ``backends.open.open_model`` for every model"""
    host: str = "127.0.0.1"
    port: int = 8080
    """0: any free one"""
    api_keys: tuple[str, ...] = ()
    """where there is one, every path wants it"""
    allowed_hosts: tuple[str, ...] = ()
    """names under which a server on loopback may be asked, besides localhost's own (against DNS rebinding)"""
    cors_origins: tuple[str, ...] = ()
    """other sites whose pages may ask; none by default"""
    strict: bool = False
    """refuse requests with fields that are unknown or not supported; otherwise a header names them"""
    max_queue: int = 64
    """answers that may wait for a place, per model; more are refused with 429"""
    max_models: int | None = None
    """models in memory at a time; None: as many as fit"""
    keep_alive: float | None = None
    """seconds after which a model that nobody asks is unloaded; None: when memory is wanted for another"""
    max_body: int = 32 * MIB
    """bytes of a JSON request"""
    max_file: int = 512 * MIB
    """bytes of a document"""
    files: Path | None = None
    """where documents that were read are kept; None: a folder that goes away with the server"""
    body_seconds: float = 60.0
    """silence after which a client that still sends its request is given up"""
    write_seconds: float = 120.0
    """silence after which a client that doesn't take its answer is given up"""
    ping_seconds: float = 15.0
    """silence after which a stream sends a comment, so that nobody takes it for dead"""
    stop_timeout: float = 30.0
    """seconds that running answers have once the server is told to stop"""

    def __post_init__(self) -> None:
        """Raises ``InvalidParameter``: no model, an open bind without a key, a number out of its range."""
        if not self.models:
            raise InvalidParameter("there is no model to serve; name one, as in `whimbrel serve smollm2-135m`")
        if not 0 <= self.port <= 65535:
            raise InvalidParameter(f"port={self.port} is impossible; it is a number from 0 (any free one) to 65535")
        for key in self.api_keys:
            if not _KEY.fullmatch(key):  # not shown: it may be a key all the same
                raise InvalidParameter(
                    f"a key of {len(key)} characters can't be one; it has 1 or more printable ASCII characters and no "
                    "space, since clients send it in a header"
                )
        if self.host not in LOOPBACK and not self.api_keys:
            raise InvalidParameter(
                f"host={self.host} would let everyone on the network in without a key; give --api-key (or "
                "WHIMBREL_API_KEY), or listen on 127.0.0.1 only"
            )
        for name in ("max_body", "max_file", "ping_seconds", "write_seconds", "body_seconds"):
            if not getattr(self, name) > 0:
                raise InvalidParameter(f"{name}={getattr(self, name)} is impossible; it is more than 0")
        for name in ("max_queue", "stop_timeout", "keep_alive"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InvalidParameter(f"{name}={value} is impossible; it is 0 or more")
        if self.max_models is not None and self.max_models < 1:
            raise InvalidParameter(f"max_models={self.max_models} is impossible; one model at least is needed")

    @property
    def on_loopback(self) -> bool:
        """True where only this machine can reach the server."""
        return self.host in LOOPBACK
