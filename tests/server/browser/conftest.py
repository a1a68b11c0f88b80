"""Real Chromium on the real server's chat page; skipped by name where either is missing."""

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from chat_page import DOCUMENT, Page
from running_server import Server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for the tests of one file. No longer: Playwright runs an event loop in this thread meanwhile, and
    pytest keeps a package's fixtures to the very end where the folder is no Python package."""
    why = "playwright is not installed: pip install 'whimbrel[dev]'"
    sync_api = pytest.importorskip("playwright.sync_api", reason=why)
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module", autouse=True)
def read_document(browser: Any, server: Server) -> None:
    """The example document has been read once: whoever gives it to the server again finds it read."""
    boundary = "whimbrel-tests"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{DOCUMENT.name}"\r\n\r\n'
    body = head.encode() + DOCUMENT.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": f"multipart/form-data; boundary={boundary}"}
    with urllib.request.urlopen(urllib.request.Request(f"{server.v1}/files", body, headers), timeout=60) as answer:
        file = json.load(answer)
    while json.loads(server.get(f"/v1/files/{file['id']}"))["status"] == "processing":
        time.sleep(0.1)


@pytest.fixture
def chat(browser: Any, server: Server) -> Iterator[Page]:
    """A page at desktop width."""
    page = Page(browser, server, viewport={"width": 1280, "height": 800})
    yield page
    page.close()


@pytest.fixture
def phone(browser: Any, server: Server) -> Iterator[Page]:
    """A page at a phone's width, in the dark."""
    page = Page(
        browser, server, viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True, is_mobile=True
    )
    yield page
    page.close()
