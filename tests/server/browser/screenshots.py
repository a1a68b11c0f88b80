"""Draw the chat page's pictures for docs/images: `python tests/server/browser/screenshots.py [FOLDER]`.

Starts the real server on a free port and real Chromium; the model is SmolLM2-135M, which `whimbrel pull smollm2-135m`
brings.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from chat_page import Page
from playwright.sync_api import sync_playwright
from running_server import started

DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}
QUESTION = "In one sentence: which two methods does this document propose to add to strings?"


def main(folder: Path) -> None:
    """One conversation about a document, at desktop and phone width, light and dark."""
    folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium")
    assert chromium, "chromium is not installed (Debian: apt install chromium)"
    with started("--context", "4096") as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for theme in ("light", "dark"):
            chat = Page(browser, server, color_scheme=theme, **DESKTOP)
            draw_desktop(chat, folder, theme)
            chat.context.close()
            phone = Page(browser, server, color_scheme=theme, **PHONE)
            draw_phone(phone, folder, theme)
            phone.context.close()
        browser.close()


def draw_desktop(chat: Page, folder: Path, theme: str) -> None:
    """A document's passages beside the answer; and the models."""
    page = ask_document(chat)
    page.locator(".passage").first.click()
    page.wait_for_selector("#panel mark.current")
    page.wait_for_timeout(500)
    page.screenshot(path=folder / f"chat-desktop-{theme}.png")
    if theme == "light":
        page.keyboard.press("Alt+m")
        page.wait_for_selector(".model.loaded")
        page.screenshot(path=folder / "chat-models.png")


def draw_phone(phone: Page, folder: Path, theme: str) -> None:
    """The same answer on a phone."""
    page = ask_document(phone)
    page.wait_for_timeout(500)
    page.screenshot(path=folder / f"chat-phone-{theme}.png")


def ask_document(chat: Page) -> Any:
    """Read the document, ask, wait for the answer."""
    page = chat.open(max_tokens=64)
    chat.add_document()
    chat.ask(QUESTION)
    page.wait_for_selector(".passage")
    return page


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[2] / "docs" / "images")
