"""Draw the chat page's pictures for docs/images: `python tests/server/browser/screenshots.py [FOLDER]`.

Starts the real server on a free port and real Chromium; the model is SmolLM2-135M, which `whimbrel pull smollm2-135m`
brings.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from chat_page import DOCUMENT, Page
from PIL import Image
from playwright.sync_api import sync_playwright
from running_server import started

DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}
COLOURS = 256
"""enough for a page of few colours, at half the size"""
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
    for picture in folder.glob("chat-*.png"):
        drawn = Image.open(picture).convert("RGB")
        drawn.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(picture, optimize=True)


def draw_desktop(chat: Page, folder: Path, theme: str) -> None:
    """A document's passages beside the answer; and the models."""
    if theme == "light":
        draw_reading(chat, folder)
    page = ask_document(chat)
    page.locator(".passage").first.click()
    page.wait_for_selector("#panel mark.current")
    page.wait_for_timeout(500)
    page.screenshot(path=folder / f"chat-desktop-{theme}.png")
    if theme == "light":
        page.keyboard.press("Alt+m")
        page.wait_for_selector(".model.loaded")
        page.screenshot(path=folder / "chat-models.png")


def draw_reading(chat: Page, folder: Path) -> None:
    """A document that nobody has read yet."""
    page = chat.open(max_tokens=64)
    with tempfile.TemporaryDirectory() as place:
        new = Path(place) / DOCUMENT.name
        new.write_text(DOCUMENT.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        chat.choose_document(new)
    page.fill("#prompt", QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector(".waiting:has-text('left')")
    page.screenshot(path=folder / "chat-reading.png")
    chat.answered()
    page.locator("#bar button[aria-label='This conversation']").click()
    page.locator("[role=menuitem]:has-text('Delete')").click()
    page.locator("dialog button:has-text('Delete')").click()
    page.wait_for_selector("#empty:not([hidden])")


def draw_phone(phone: Page, folder: Path, theme: str) -> None:
    """The same answer on a phone."""
    page = ask_document(phone)
    page.wait_for_timeout(500)
    page.screenshot(path=folder / f"chat-phone-{theme}.png")


def ask_document(chat: Page) -> Any:
    """Read the document, ask, wait for the answer."""
    page = chat.open(max_tokens=64)
    for file in json.loads(chat.server.get("/v1/files"))["data"]:
        chat.context.request.delete(f"/v1/files/{file['id']}")
    page.reload()
    page.wait_for_selector("#documents:empty", state="attached")
    chat.add_document()
    chat.ask(QUESTION)
    page.wait_for_selector(".passage")
    return page


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[2] / "docs" / "images")
