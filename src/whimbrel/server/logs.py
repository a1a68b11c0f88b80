"""How the server's log lines look: ``key=value`` for people, or one JSON object a line for programs."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

FORMATS = ("text", "json")


class TextFormatter(logging.Formatter):
    """``HH:MM:SS LEVEL component: message key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and a traceback behind it where there is one."""
        line = super().format(record)
        fields: dict[str, Any] = getattr(record, "fields", {})
        shown = " ".join(f"{name}={value}" for name, value in fields.items())
        return f"{line} {shown}" if shown else line


class JsonFormatter(logging.Formatter):
    """``{"time", "level", "component", "message", ...}``."""

    def format(self, record: logging.LogRecord) -> str:
        """The object on one line."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "component": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def configure(format: str, level: int) -> None:
    """Log the server to standard error in that format; replaces what was configured before."""
    handler = logging.StreamHandler()
    if format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("whimbrel.server").setLevel(level)
    for noisy in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "multipart"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
