"""A real HTTP server on loopback for download tests: ranges, validators, cut connections, wrong bytes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves ``files`` (path -> bytes). ``cut_after`` ends each answer early; ``requests`` records what was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.cut_after: int | None = None
        self.ranges = True
        self.status: int | None = None
        self.requests: list[dict[str, str]] = []
        self.url = ""

    @contextmanager
    def running(self) -> Iterator["FileServer"]:
        """Serve until the block ends."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                site.requests.append({"path": self.path, **dict(self.headers.items())})
                body = site.files.get(self.path.split("?")[0])
                if site.status or body is None:
                    self.send_error(site.status or 404)
                    return
                start = self._start(body)
                if start is None:
                    return
                self.send_header("Content-Length", str(len(body) - start))
                self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
                self.send_header("ETag", site.etags.get(self.path, '"one"'))
                self.end_headers()
                end = len(body) if site.cut_after is None else min(len(body), start + site.cut_after)
                self.wfile.write(body[start:end])
                if end < len(body):
                    self.close_connection = True

            def _start(self, body: bytes) -> int | None:
                """First byte to send, after the status line; None where the range can't be served."""
                wanted = self.headers.get("Range", "") if site.ranges else ""
                validator = self.headers.get("If-Range")
                if not wanted or (validator and validator != site.etags.get(self.path, '"one"')):
                    self.send_response(200)
                    return 0
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return None
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                return start

        return Handler
