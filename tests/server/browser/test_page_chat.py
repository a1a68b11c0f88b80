"""The chat page as a person uses it: conversations, documents, branches, reloads, errors."""

import json
import re
from pathlib import Path
from typing import Any

from chat_page import Page, until

CAPITAL = "What is the capital city of France? Answer in one word."


def test_a_conversation_is_answered_kept_and_found_again(chat: Page) -> None:
    page = chat.open()
    answer = chat.ask(CAPITAL)
    assert "Paris" in answer.locator(".text").inner_text()
    assert re.search(r"\d+ tokens · [\d.]+ tokens/s", answer.locator(".facts").inner_text())
    chat.ask("And of Italy?")
    assert page.locator(".question .bubble").all_inner_texts() == [CAPITAL, "And of Italy?"]
    shown = page.locator(".answer .text").all_inner_texts()
    page.reload()
    page.wait_for_selector(".answer .text")
    assert page.locator(".answer .text").all_inner_texts() == shown
    page.keyboard.press("Alt+n")
    page.wait_for_selector("#empty:not([hidden])")
    page.keyboard.press("Control+k")
    page.keyboard.type("capital")
    page.keyboard.press("Enter")
    page.wait_for_selector(".question")
    assert page.locator("h1").inner_text().startswith("What is the capital city")


def test_an_answer_can_be_stopped_and_survives_a_reload(chat: Page) -> None:
    page = chat.open(max_tokens=2000)
    page.fill("#prompt", "Write a very long story about the sea.")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer .text:not(:empty)")
    page.wait_for_selector(".facts:has-text('tokens/s')")
    page.keyboard.press("Escape")
    answer = chat.answered()
    assert answer.locator(".end").inner_text() == "Stopped"
    text = answer.locator(".text").inner_text()
    chat.server.wait_idle()
    page.reload()
    page.wait_for_selector(".answer .text:not(:empty)")
    assert page.locator(".answer .text").last.inner_text() == text

    page.fill("#prompt", "Write another long story, about a mountain.")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.answer .text:not(:empty)').length === 2")
    page.reload()  # in the middle of it
    page.wait_for_selector(".answer .end:has-text('Interrupted')")
    assert page.locator(".answer .text").last.inner_text()
    chat.server.wait_idle()


def test_edits_and_retries_are_branches(chat: Page) -> None:
    page = chat.open(temperature=1, seed=None)
    chat.ask("Name a bird of the shore.")
    page.locator(".answer button[aria-label='Answer again']").click()
    chat.answered()
    assert page.locator(".answer .place").inner_text() == "2/2"
    page.locator(".question").hover()
    page.locator("button[aria-label='Edit the question']").click()
    page.keyboard.press("Control+a")
    page.keyboard.type(CAPITAL)
    page.keyboard.press("Enter")
    chat.answered()
    assert page.locator(".question .bubble").inner_text() == CAPITAL
    page.locator(".question").hover()
    assert page.locator(".question .place").inner_text() == "2/2"
    page.locator("button[aria-label='Previous version of this question']").click()
    page.wait_for_selector(".question .bubble:has-text('bird')")
    assert page.locator(".answer .place").inner_text() == "2/2"
    page.locator("button[aria-label='Previous version of this answer']").click()
    page.wait_for_selector(".answer .place:has-text('1/2')")


def test_a_document_is_read_once_and_shows_what_an_answer_read(chat: Page) -> None:
    page = chat.open()
    chat.add_document()
    answer = chat.ask("Which two methods does it add?")
    passages = answer.locator(".passage")
    assert passages.count() == 4
    strip = answer.locator(".heat[role=slider]")
    assert int(strip.get_attribute("aria-valuemax")) > 40
    quote = passages.first.locator(".quote").inner_text()[:12]
    passages.first.click()
    page.wait_for_selector("#panel mark.current")
    marked = "".join(page.locator("#panel mark.current").all_inner_texts())
    assert quote.split()[0] in marked
    box, view = page.locator("#panel mark.current").first.bounding_box(), page.locator(".document-text").bounding_box()
    assert view["y"] <= box["y"] <= view["y"] + view["height"], "the passage is in sight"
    before = page.locator(".document-text").evaluate("e => e.scrollTop")
    page.locator("#panel .heat").focus()
    page.keyboard.press("Home")
    until(page, "before => document.querySelector('.document-text').scrollTop !== before", before)
    # asked again, also in another conversation, nothing is read anew
    page.keyboard.press("Alt+n")
    page.locator("#documents .side-more").first.click()
    page.locator("[role=menuitem]:has-text('Ask it')").click()
    again = chat.ask("Who wrote it?")
    facts = again.locator(".facts").get_attribute("title")
    found = re.search(r"It read (\d+) tokens.* found ([\d,]+) read before", facts)
    assert found and int(found[1]) < 100 and int(found[2].replace(",", "")) > 3000, facts
    page.locator("#documents .side-more").first.click()
    page.locator("[role=menuitem]:has-text('Delete')").click()
    page.locator("dialog button:has-text('Delete')").click()
    until(page, "document.querySelectorAll('#documents li').length === 0")
    assert json.loads(chat.server.get("/v1/files"))["data"] == []


def test_a_long_prompt_shows_how_far_it_has_been_read(chat: Page) -> None:
    page = chat.open(max_tokens=4)
    page.fill("#prompt", "Read this: " + " ".join(str(number) for number in range(900)))
    page.keyboard.press("Enter")
    page.wait_for_selector(".waiting:has-text('Reading') [role=progressbar]:not([hidden])", state="attached")
    assert chat.answered().locator(".text").inner_text()


def test_tools_are_called_and_their_results_go_back(chat: Page) -> None:
    tool = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    page = chat.open(tools=json.dumps([tool]), tool_choice="required", max_tokens=64)
    answer = chat.ask("What is the weather in Paris?")
    assert answer.locator(".call-title code").inner_text() == "get_weather"
    assert isinstance(json.loads(answer.locator(".call pre").inner_text()), dict)
    page.evaluate("localStorage.setItem('whimbrel.settings', JSON.stringify({max_tokens: 16, temperature: 0}))")
    answer.locator("textarea").fill("Sunny, 21 degrees")
    answer.locator("button:has-text('Send the result')").click()
    page.wait_for_selector(".message.result:has-text('Sunny')")
    until(page, "document.querySelectorAll('.answer').length === 2")
    chat.answered()


def test_settings_count_from_the_next_answer_on(chat: Page) -> None:
    page = chat.open()
    page.keyboard.press("Alt+s")
    page.fill("#set-max_tokens", "3")
    page.keyboard.press("Tab")
    page.fill("#set-temperature", "9")
    page.keyboard.press("Tab")
    assert "from 0 to 2" in page.locator("#problem-temperature").inner_text()
    answer = chat.ask("Tell me a story.")
    assert "3 tokens" in answer.locator(".facts").inner_text()
    assert "Cut off" in answer.locator(".end").inner_text()
    page.locator("input[value=dark]").check()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 26)"
    page.keyboard.press("Alt+m")
    page.wait_for_selector(".model.loaded:has-text('smollm2-135m')")
    assert page.locator(".meter").get_attribute("aria-valuetext")


def test_what_is_exported_can_be_imported(chat: Page, tmp_path: Path) -> None:
    page = chat.open()
    chat.ask(CAPITAL)
    for form, ending in (("Markdown", "md"), ("JSON", "json")):
        page.locator("#bar button[aria-label='This conversation']").click()
        with page.expect_download() as download:
            page.locator(f"[role=menuitem]:has-text('Export as {form}')").click()
        download.value.save_as(tmp_path / f"conversation.{ending}")
    text = (tmp_path / "conversation.md").read_text(encoding="utf-8")
    assert "## You" in text and CAPITAL in text and "Paris" in text
    page.locator("#bar button[aria-label='This conversation']").click()
    page.locator("[role=menuitem]:has-text('Delete')").click()
    page.locator("dialog button:has-text('Delete')").click()
    page.wait_for_selector("#empty:not([hidden])")
    page.locator("button[aria-label='All conversations']").click()
    with page.expect_file_chooser() as chooser:
        page.locator("[role=menuitem]:has-text('Import')").click()
    chooser.value.set_files(str(tmp_path / "conversation.json"))
    page.locator("#conversations .side-open").first.click()
    page.wait_for_selector(".answer .text:has-text('Paris')")


def test_what_goes_wrong_is_said_with_what_to_do(chat: Page) -> None:
    page = chat.open()
    page.fill("#prompt", "word " * 6000)
    page.keyboard.press("Enter")
    page.wait_for_selector(".problem-card")
    assert "4096" in page.locator(".problem-card").inner_text().replace(",", "")
    page.keyboard.press("Alt+n")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.fill("#prompt", "Hello")
    page.keyboard.press("Enter")
    page.wait_for_selector(".problem-card button:has-text('Try again')")
    page.unroute("**/v1/chat/completions")
    page.locator(".problem-card button:has-text('Try again')").last.click()
    assert chat.answered().locator(".text").inner_text()
    chat.context.clear_cookies()
    page.fill("#prompt", "Hello again")
    page.keyboard.press("Enter")
    page.wait_for_selector(".problem-card:has-text('key'), dialog[open]")
    chat.problems[:] = [one for one in chat.problems if "Failed to load resource" not in one]


def test_everything_without_a_mouse(chat: Page) -> None:
    page = chat.open()
    page.keyboard.type("Name a bird.")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("One word.")
    page.keyboard.press("Enter")
    chat.answered()
    assert page.locator(".bubble").inner_text() == "Name a bird.\nOne word."
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.ariaLabel").startswith("The question")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open] .keys")
    page.keyboard.press("Escape")
    until(page, "!document.querySelector('dialog')")
    reached = _tab_stops(page)
    for name in ("New conversation", "Find conversations", "Message", "Model", "Settings", "Copy the answer"):
        assert name in reached, (name, reached)


def _tab_stops(page: Any) -> set[str]:
    page.evaluate("document.querySelector('.skip').focus()")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim()"))
    return reached
