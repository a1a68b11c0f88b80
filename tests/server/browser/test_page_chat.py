"""Conversations as a person has them: asked, stopped, reloaded, edited, found, exported; tools, thinking, settings."""

import json
import re
from pathlib import Path

from chat_page import Page, chunk, until

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


def test_a_long_prompt_shows_how_far_it_has_been_read(chat: Page) -> None:
    page = chat.open(max_tokens=4)
    page.fill("#prompt", "Read this: " + " ".join(str(number) for number in range(400)))
    page.keyboard.press("Enter")
    page.wait_for_selector(".waiting:has-text('Reading') [role=progressbar]:not([hidden])", state="attached")
    assert chat.answered().locator(".text").inner_text()


def test_tools_are_called_and_their_results_go_back(chat: Page) -> None:
    tool = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    page = chat.open(tools=json.dumps([tool]), tool_choice="required", max_tokens=64)
    answer = chat.ask("What is the weather in Paris?")
    assert answer.locator(".call-title code").inner_text() == "get_weather"
    assert isinstance(json.loads(answer.locator(".call pre").inner_text()), dict)
    answer.locator("textarea").fill("Sunny, 21 degrees")
    answer.locator("button:has-text('Send the result')").click()
    page.wait_for_selector(".message.result:has-text('Sunny')")
    until(page, "document.querySelectorAll('.answer').length === 2")
    assert chat.answered().locator(".call").count() == 0, "a result is answered in words"


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


def test_thinking_is_folded_away(chat: Page) -> None:
    page = chat.open()
    chat.answer_with(
        chunk(reasoning_content="Shore birds. "),
        chunk(reasoning_content="Whimbrel."),
        chunk("stop", content="A whimbrel."),
    )
    answer = chat.ask("Name a bird.")
    assert answer.locator(".text").inner_text() == "A whimbrel."
    assert not answer.locator(".thought").is_visible()
    answer.locator("summary:has-text('Thought for')").click()
    assert answer.locator(".thought").inner_text() == "Shore birds. Whimbrel."
    page.reload()
    page.wait_for_selector(".answer .thinking", state="attached")
    assert page.locator(".thought").text_content() == "Shore birds. Whimbrel."


def test_two_calls_want_two_results(chat: Page) -> None:
    page = chat.open(tools='{"name": "weather"}')
    calls = [
        {"index": i, "id": f"c{i}", "type": "function", "function": {"name": "weather", "arguments": arguments}}
        for i, arguments in enumerate(['{"city": ', '{"city": "Rome"}'])
    ]
    rest = [{"index": 0, "function": {"arguments": '"Paris"}'}}]
    chat.answer_with(chunk(tool_calls=calls), chunk(tool_calls=rest), chunk("tool_calls"))
    answer = chat.ask("The weather?")
    assert [json.loads(text) for text in answer.locator(".call pre").all_inner_texts()] == [
        {"city": "Paris"},
        {"city": "Rome"},
    ]
    chat.answer_with(chunk("stop", content="Fine."))
    answer.locator("textarea").nth(0).fill("sun")
    answer.locator("button:has-text('Send the results')").click()
    assert page.locator(".result").count() == 0, "one is missing"
    answer.locator("textarea").nth(1).fill("rain")
    with page.expect_request("**/v1/chat/completions") as asked:
        answer.locator("button:has-text('Send the results')").click()
    sent = json.loads(asked.value.post_data)["messages"]
    assert [(one["role"], one.get("tool_call_id"), one["content"]) for one in sent[2:]] == [
        ("tool", "c0", "sun"),
        ("tool", "c1", "rain"),
    ]
    page.wait_for_selector(".answer .text:has-text('Fine.')")


def test_settings_count_from_the_next_answer_on(chat: Page) -> None:
    page = chat.open(max_tokens=16)
    page.keyboard.press("Alt+s")
    values = {"max_tokens": "3", "top_p": "0.9", "top_k": "40", "min_p": "0.05", "seed": "7", "temperature": "0.5"}
    for name, value in values.items():
        page.fill(f"#set-{name}", value)
    page.fill("#set-system", "Answer briefly.")
    page.fill("#set-stop", "###")
    page.keyboard.press("Tab")
    with page.expect_request("**/v1/chat/completions") as asked:
        answer = chat.ask("Tell me a story.")
    body = json.loads(asked.value.post_data)
    assert {name: str(body[name]) for name in values} == values
    assert body["stop"] == ["###"] and body["messages"][0]["content"] == "Answer briefly."
    assert "3 tokens" in answer.locator(".facts").inner_text()
    assert "Cut off" in answer.locator(".end").inner_text()
    page.fill("#set-temperature", "9")
    page.keyboard.press("Tab")
    assert "from 0 to 2" in page.locator("#problem-temperature").inner_text()
    page.fill("#set-tools", "[")
    page.keyboard.press("Tab")
    assert "no JSON" in page.locator("#problem-tools").inner_text()
    page.locator("input[value=dark]").check()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.reload()
    until(page, "document.querySelector('#model')?.value")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    page.keyboard.press("Alt+s")
    assert page.input_value("#set-seed") == "7" and page.input_value("#set-temperature") == "0.5"
    page.locator("input[value=light]").check()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_models_and_memory_are_shown(chat: Page) -> None:
    page = chat.open()
    page.keyboard.press("Alt+m")
    card = page.locator(".model.loaded:has-text('smollm2-135m')")
    assert "4,096 tokens" in card.inner_text() and "dense" in card.inner_text()
    assert re.search(r"whimbrel \d+ MB", page.locator(".meter").get_attribute("aria-valuetext"))
    page.keyboard.press("Escape")
    assert not page.locator("#panel").is_visible()


def test_a_conversation_is_renamed_and_a_draft_survives(chat: Page) -> None:
    page = chat.open()
    chat.answer_with(chunk("stop", content="Yes."))
    chat.ask("Is this kept?")
    page.locator("#conversations .side-more").click()
    page.locator("[role=menuitem]:has-text('Rename')").click()
    page.locator("dialog input").fill("A better name")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('A better name')")
    page.fill("#prompt", "half a question")
    page.reload()
    page.wait_for_selector("h1:has-text('A better name')")
    assert page.input_value("#prompt") == "half a question"
    page.go_back()
    page.wait_for_selector("#empty:not([hidden])")
    assert page.locator("#conversations .side-title").all_inner_texts() == ["A better name"]


def test_another_window_follows(chat: Page) -> None:
    page = chat.open(max_tokens=1000)
    page.fill("#prompt", "Tell a long story.")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer .text:not(:empty)")
    other = chat.context.new_page()
    other.goto(page.url)
    other.wait_for_selector(".answer .end:has-text('Being written in another window')")
    length = "document.querySelector('.answer .text').textContent.length"
    before = other.evaluate(length)
    until(other, f"before => {length} > before", before)
    page.keyboard.press("Escape")
    text = chat.answered().locator(".text").inner_text()
    other.wait_for_selector(".answer .end:has-text('Stopped')")
    assert other.locator(".answer .text").inner_text() == text
    chat.server.wait_idle()
