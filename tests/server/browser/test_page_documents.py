"""Documents on the page: dropped, read with a bar, asked; the passages that an answer read, in their text; the heat strip."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chat_page import DOCUMENT, Page, chunk, until

BEGINNING = "Notes on birds 🐦🐦 of the shore, 𝒾n code points.\n\n"
"""Characters that are two units of UTF-16 each, before everything that a passage can point to"""


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A document that no other test has had read."""
    path = tmp_path / "notes.txt"
    path.write_text(BEGINNING + DOCUMENT.read_text(encoding="utf-8")[:6000], encoding="utf-8")
    return path


def drop(page: Any, path: Path) -> None:
    """Let a file fall on the page."""
    page.evaluate(
        """([name, text]) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([text], name));
            for (const type of ['dragenter', 'dragover', 'drop']) {
                document.body.dispatchEvent(new DragEvent(type, {dataTransfer, bubbles: true, cancelable: true}));
                if (type === 'dragenter' && document.querySelector('#drop').hidden) throw new Error('nothing shows where to drop');
            }
        }""",
        [path.name, path.read_text(encoding="utf-8")],
    )


def test_a_dropped_document_is_read_once_and_asked(chat: Page, notes: Path) -> None:
    page = chat.open()
    drop(page, notes)
    page.fill("#prompt", "Which two methods does it add?")
    page.keyboard.press("Enter")  # before it is read: the question waits
    page.wait_for_selector(".waiting:has-text('notes.txt') [role=progressbar]")
    page.wait_for_selector("#documents .side-under:has-text('left')")
    answer = chat.answered()
    assert not page.locator("#drop").is_visible()
    assert page.locator("#documents .side-title").first.inner_text() == "notes.txt", "the last one stands first"

    [file] = [one for one in json.loads(chat.server.get("/v1/files"))["data"] if one["filename"] == "notes.txt"]
    text = chat.server.get(f"/v1/files/{file['id']}/text")
    passages = answer.locator(".passage")
    assert 1 <= passages.count() <= 4, "neighbours are joined"
    for index in range(passages.count()):
        passages.nth(index).click()
        until(page, "index => document.querySelector('#panel mark.current')?.dataset.passage === String(index)", index)
        marked = "".join(page.locator("#panel mark.current").all_text_contents())
        quote = passages.nth(index).locator(".quote").inner_text().rstrip("…")
        assert marked in text and re.sub(r"\s+", " ", marked).strip().startswith(quote)
        until(page, IN_UPPER_HALF)

    # asked again, also in another conversation, nothing is read anew
    page.keyboard.press("Alt+n")
    page.locator("#documents li:has-text('notes.txt') .side-more").click()
    page.locator("[role=menuitem]:has-text('Ask it')").click()
    facts = chat.ask("Who wrote it?").locator(".facts").get_attribute("title")
    found = re.search(r"It read (\d+) tokens.* found ([\d,]+) read before", facts)
    assert found and int(found[1]) < 100 and int(found[2].replace(",", "")) > 1000, facts

    page.locator("#documents li:has-text('notes.txt') .side-more").click()
    page.locator("[role=menuitem]:has-text('Delete')").click()
    page.locator("dialog button:has-text('Delete')").click()
    until(page, "![...document.querySelectorAll('#documents .side-title')].some(e => e.textContent === 'notes.txt')")
    assert file["id"] not in chat.server.get("/v1/files")


IN_UPPER_HALF = """(() => {
    const mark = document.querySelector('#panel mark.current').getBoundingClientRect();
    const view = document.querySelector('.document-text').getBoundingClientRect();
    return mark.top >= view.top && mark.top < view.top + view.height / 2;
})()"""

PART = "[...CSS.highlights.get('part')][0].toString()"
"""the text that the heat strip points to"""


def test_the_heat_strip_leads_through_the_document(chat: Page) -> None:
    page = chat.open()
    chat.add_document()
    answer = chat.ask("Which two methods does it add?")
    strip = answer.locator(".heat[role=slider]")
    parts = int(strip.get_attribute("aria-valuemax"))
    assert parts > 40
    assert "whatever is asked" not in strip.get_attribute("aria-valuetext"), (
        "it begins where attention went for the question"
    )
    box = strip.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    page.wait_for_selector("#panel .heat")
    assert abs(int(strip.get_attribute("aria-valuenow")) - 0.75 * parts) <= 2
    text = DOCUMENT.read_text(encoding="utf-8")
    until(page, "CSS.highlights.has('part')")
    assert 0.6 < text.index(page.evaluate(PART)) / len(text) < 0.85

    beside = page.locator("#panel .heat")
    beside.focus()
    page.keyboard.press("Home")
    until(page, "document.querySelector('.document-text').scrollTop === 0")
    assert text.startswith(page.evaluate(PART))
    assert "whatever is asked" in beside.get_attribute("aria-valuetext"), "the first part is attention's resting place"
    page.keyboard.press("End")
    until(page, "document.querySelector('.document-text').scrollTop > 0")
    assert text.rstrip().endswith(page.evaluate(PART).rstrip())
    page.keyboard.press("Enter")  # to the part that was read most
    marks = "".join(page.locator("#panel mark[data-passage='0']").all_text_contents())
    assert page.evaluate(PART).strip() in marks
    assert "whatever is asked" not in beside.get_attribute("aria-valuetext")


def test_no_passages_where_none_are_wanted(chat: Page) -> None:
    page = chat.open(passages=0)
    chat.add_document()
    with page.expect_request("**/v1/chat/completions") as asked:
        answer = chat.ask("Which two methods does it add?")
    assert "passages" not in json.loads(asked.value.post_data)
    assert not answer.locator(".passages").is_visible()


def test_what_is_no_document_is_refused_with_the_reason(chat: Page, tmp_path: Path) -> None:
    page = chat.open()
    (tmp_path / "picture.bin").write_bytes(bytes(range(256)) * 8)
    chat.choose_document(tmp_path / "picture.bin")
    notice = page.locator(".notice.error")
    assert "picture.bin could not be read" in notice.inner_text() and "binary" in notice.inner_text()
    assert "/" not in notice.inner_text(), "the server's own paths are nobody's business"
    until(page, "document.querySelectorAll('.chip').length === 0")
    notice.locator("button").click()
    assert page.locator(".notice").count() == 0


def test_a_document_that_went_away_is_said_to_have(chat: Page) -> None:
    page = chat.open()
    chat.add_document()
    chat.answer_with(chunk("stop", content="Yes."))
    chat.ask("Is it there?")
    page.unroute_all()
    for file in json.loads(chat.server.get("/v1/files"))["data"]:
        chat.context.request.delete(f"/v1/files/{file['id']}")
    page.reload()
    page.wait_for_selector(".chip.error:has-text('not on the server')")
    page.fill("#prompt", "And now?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".problem-card:has-text('take the document off this conversation')")
    page.locator(".chip button[aria-label^='Take']").click()
    page.locator(".problem-card button:has-text('Try again')").click()
    assert chat.answered().locator(".text").inner_text()
    chat.forgive(404)
