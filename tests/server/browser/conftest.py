"""Real Chromium on the real server's chat page; skipped by name where either is missing."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from chat_page import Page
from running_server import Server

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'whimbrel[dev]'")


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """One browser for the tests of this folder. No longer: Playwright runs an event loop in this thread meanwhile."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


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
