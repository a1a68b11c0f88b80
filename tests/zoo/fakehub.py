"""A Hugging Face Hub on loopback: just the routes that huggingface_hub uses to list and fetch one repository's files."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """``repositories``: name -> {path: bytes}. ``cut_after`` ends each file early; ``requests`` are (method, path, Range)."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.cut_after: int | None = None
        self.requests: list[tuple[str, str, str | None]] = []
        self.url = ""

    @contextmanager
    def running(self) -> Iterator["FakeHub"]:
        """Serve until the block ends."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def _answer(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.requests.append((self.command, path, self.headers.get("Range")))
                parts = path.strip("/").split("/")
                if parts[:2] == ["api", "models"]:
                    self._api("/".join(parts[2:4]), parts[4:])
                elif parts[2:3] == ["resolve"]:
                    self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
                else:
                    self._refuse(404, "EntryNotFound")

            def _api(self, name: str, rest: list[str]) -> None:
                files = hub.repositories.get(name)
                if name in hub.gated:
                    return self._refuse(403, "GatedRepo")
                if files is None:
                    return self._refuse(404, "RepoNotFound")
                if rest[1:2] not in ([], ["main"], [COMMIT]):
                    return self._refuse(404, "RevisionNotFound")
                if rest[:1] == ["tree"]:
                    return self._json([_entry(path, data) for path, data in files.items()])
                return self._json({"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]})

            def _file(self, name: str, revision: str, path: str) -> None:
                data = hub.repositories.get(name, {}).get(path)
                if data is None or revision not in {"main", COMMIT}:
                    return self._refuse(404, "EntryNotFound")
                start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
                self.send_response(206 if self.headers.get("Range") else 200)
                self.send_header("Content-Length", str(len(data) - start))
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if self.command == "GET":
                    end = len(data) if hub.cut_after is None else min(len(data), start + hub.cut_after)
                    self.wfile.write(data[start:end])
                    self.close_connection = end < len(data)

            def _json(self, value: object) -> None:
                body = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _refuse(self, status: int, code: str) -> None:
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

        return Handler


def _entry(path: str, data: bytes) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    return {
        "type": "file",
        "path": path,
        "size": len(data),
        "oid": digest[:40],
        "lfs": {"oid": digest, "size": len(data), "pointerSize": 1},
    }
