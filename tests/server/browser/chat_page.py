"""A page as a person uses it: log in, ask, add a document; and what goes wrong on it is remembered."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from running_server import Server

ANSWER_SECONDS = 60
DOCUMENT = Path(__file__).parents[3] / "examples" / "documents" / "pep-0616.txt"
SHORT = {"max_tokens": 24, "temperature": 0}
"""Settings under which a small model doesn't go on for long"""


def chunk(finish: str | None = None, *, of: Mapping[str, Any] | None = None, **delta: Any) -> dict[str, Any]:
    """A chunk of an answer as the server sends it; ``of`` are fields beside the choices."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **(of or {})}


def until(page: Any, expression: str, argument: Any = None, seconds: float = ANSWER_SECONDS) -> None:
    """Wait until a JavaScript expression, or a function of ``argument``, holds.

    Playwright's own waiting evaluates text inside the page, which the Content-Security-Policy forbids.
    """
    end = time.monotonic() + seconds
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, f"not within {seconds} s: {expression}"
        page.wait_for_timeout(50)


class Page:
    """A page that is logged in, and what went wrong on it."""

    def __init__(self, browser: Any, server: Server, **context: Any) -> None:
        """``context``: viewport, color_scheme, ..."""
        self.server = server
        self.context = browser.new_context(base_url=server.url, accept_downloads=True, **context)
        self.problems: list[str] = []
        self.asked: list[str] = []
        self.page = self.context.new_page()
        self.page.set_default_timeout(ANSWER_SECONDS * 1000)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _console(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(f"{message.type}: {message.text}")

    def open(self, **settings: Any) -> Any:
        """Be logged in, with settings as the page keeps them."""
        assert self.context.request.post("/login", form={"key": self.server.key}).ok
        kept = json.dumps(json.dumps({**SHORT, **settings}))
        self.context.add_init_script(f"localStorage['whimbrel.settings'] ??= {kept}")
        self.page.goto("/")
        until(self.page, "document.querySelector('#model')?.value")
        return self.page

    def ask(self, text: str) -> Any:
        """Send a question, and wait for the whole answer; its element."""
        self.page.fill("#prompt", text)
        self.page.keyboard.press("Enter")
        return self.answered()

    def answered(self) -> Any:
        """The last answer, once it is complete."""
        self.page.wait_for_selector(".answer.running, .answer .facts:not(:empty), .answer .end:not(:empty)")
        until(self.page, "!document.querySelector('.answer.running')")
        return self.page.locator(".answer").last

    def choose_document(self, path: Path) -> None:
        """Give it a document."""
        with self.page.expect_file_chooser() as chooser:
            self.page.click("#composer button[aria-label='Add a document']")
        chooser.value.set_files(path)

    def add_document(self, path: Path = DOCUMENT) -> None:
        """Give it a document, and wait until it has been read."""
        self.choose_document(path)
        self.page.wait_for_selector(".chip.processed")

    def answer_with(self, *chunks: Mapping[str, Any]) -> None:
        """The next answers are these chunks: for what no model here says by itself."""
        events = [json.dumps(chunk) for chunk in chunks] + ["[DONE]"]
        body = "".join(f"data: {event}\n\n" for event in events)
        self.page.unroute_all()
        self.page.route(
            "**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body)
        )

    def forgive(self, *statuses: int) -> None:
        """Take what the browser says of these answers, which the test has provoked, off the problems."""
        texts = [f"status of {status}" for status in statuses]
        self.problems[:] = [one for one in self.problems if not any(text in one for text in texts)]

    def close(self) -> None:
        """Leave; whatever went wrong fails the test."""
        self.context.close()
        assert not self.problems, self.problems
        foreign = [url for url in self.asked if not url.startswith((self.server.url, "blob:", "data:"))]
        assert not foreign, f"the page asked other hosts: {foreign}"
