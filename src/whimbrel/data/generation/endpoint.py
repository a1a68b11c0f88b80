"""A writer behind an OpenAI-compatible address: ``whimbrel serve``, or anybody else's server."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass

from whimbrel.errors import DownloadError


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """``url`` ends in ``/v1``. Called with a request, returns the answer's text."""

    url: str
    model: str
    key: str | None = None
    temperature: float = 0.7
    max_tokens: int = 4096
    seconds: float = 300.0

    def __call__(self, request: str) -> str:
        """One answer. Raises DownloadError, with what the server said."""
        address = self.url.rstrip("/") + "/chat/completions"
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": request}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        asked = urllib.request.Request(address, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(asked, timeout=self.seconds) as answer:
                return str(json.load(answer)["choices"][0]["message"]["content"] or "")
        except urllib.error.HTTPError as error:
            raise DownloadError(
                f"{address} answered {error.code}: {error.read(300).decode(errors='replace')}"
            ) from None
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise DownloadError(f"{address}: no answer that could be read: {error}") from None
