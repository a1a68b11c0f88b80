"""What goes wrong is said plainly, with what to do about it: a key, a full queue, a prompt too long, a server that is gone."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chat_page import Page, chunk, until
from running_server import MAX_QUEUE, MAX_SEQUENCES, Server


def send(chat: Page, text: str) -> Any:
    """Ask, and wait for the card that says what is wrong."""
    chat.page.fill("#prompt", text)
    chat.page.keyboard.press("Enter")
    card = chat.page.locator(".problem-card:visible").last
    card.wait_for()
    return card


def test_a_server_with_a_key_asks_for_it(chat: Page) -> None:
    page = chat.page
    page.goto("/")
    page.fill("input[name=key]", "wrong")
    page.click("button")
    page.wait_for_selector("[role=alert]:visible")
    page.fill("input[name=key]", chat.server.key)
    page.click("button")
    page.wait_for_selector("#prompt")
    chat.forgive(401)


def test_a_lost_login_is_asked_for_and_the_question_is_sent_again(chat: Page) -> None:
    page = chat.open()
    chat.context.clear_cookies()
    page.fill("#prompt", "Hello")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog [role=alert]:has-text('not the key')")
    page.keyboard.press("Control+a")
    page.keyboard.type(chat.server.key)
    page.keyboard.press("Enter")
    until(page, "!document.querySelector('dialog')")
    assert chat.answered().locator(".text").inner_text()
    assert page.locator(".question").count() == 1
    chat.forgive(401)


@contextmanager
def crowd(server: Server) -> Iterator[None]:
    """As many long answers as the server takes on."""
    body = {"messages": [{"role": "user", "content": "Tell a very long story."}], "stream": True, "max_tokens": 3000}
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.v1}/chat/completions", json.dumps(body).encode(), headers)
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(urllib.request.urlopen(request, timeout=60)))
        for _ in range(MAX_SEQUENCES + MAX_QUEUE)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        yield
    finally:
        for answer in answers:
            answer.close()
        server.wait_idle()


def test_a_busy_server_says_when_to_try_again(chat: Page) -> None:
    page = chat.open()
    with crowd(chat.server):
        card = send(chat, "Hello")
        assert "The server is busy" in card.inner_text()
        assert "Try again (in" in card.locator("button").inner_text()
    until(page, "document.querySelector('.problem-card button').textContent === 'Try again'")
    card.locator("button").click()
    assert chat.answered().locator(".text").inner_text()
    assert page.locator(".answer").count() == 1, "it takes the place of the answer that failed"
    chat.forgive(429)


def test_a_prompt_too_long_is_refused_and_an_answer_too_long_is_cut(chat: Page) -> None:
    page = chat.open(max_tokens=4000)
    card = send(chat, "word " * 6000)
    assert "longer than the model can read" in card.inner_text() and "4096" in card.inner_text().replace(",", "")
    page.keyboard.press("Alt+n")
    page.fill("#prompt", "Tell a long story about the sea. " * 20)  # fits, but not together with 4,000 tokens of answer
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer .text:not(:empty)")
    page.keyboard.press("Escape")
    chat.answered()
    chat.forgive(400)


def test_a_server_that_is_gone_and_comes_back(chat: Page) -> None:
    chat.open()
    chat.context.set_offline(True)
    card = send(chat, "Hello")
    assert "does not answer" in card.inner_text() and "whimbrel serve" in card.inner_text()
    chat.context.set_offline(False)
    card.locator("button:has-text('Try again')").click()
    assert chat.answered().locator(".text").inner_text()
    chat.problems[:] = [one for one in chat.problems if "ERR_INTERNET_DISCONNECTED" not in one]


def test_a_page_opened_before_its_server_connects_by_itself(chat: Page) -> None:
    page = chat.open()
    page.route("**/v1/models", lambda route: route.abort())
    page.reload()
    page.wait_for_selector(".notice.error:has-text('does not answer')")
    page.unroute_all()
    until(page, "document.querySelector('#model')?.value")
    assert page.locator(".notice.error").count() == 0
    chat.problems[:] = [one for one in chat.problems if "ERR_FAILED" not in one]


def test_an_answer_that_breaks_off_keeps_what_is_there(chat: Page) -> None:
    page = chat.open()
    chat.answer_with(chunk(content="Half an "), {"error": {"message": "the engine stopped", "type": "server_error"}})
    answer = chat.ask("Hello")
    assert answer.locator(".text").inner_text() == "Half an"
    assert "The engine stopped." in answer.locator(".problem-card").inner_text()
    chat.answer_with(chunk("stop", content="A whole one."))
    answer.locator(".problem-card button").click()
    page.wait_for_selector(".answer .place:has-text('2/2')")
    assert chat.answered().locator(".text").inner_text() == "A whole one."


def test_ignored_fields_are_named(chat: Page) -> None:
    page = chat.open()
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            content_type="text/event-stream",
            headers={"X-Ignored-Params": "min_p"},
            body=f"data: {json.dumps(chunk('stop', content='Yes.'))}\n\ndata: [DONE]\n\n",
        ),
    )
    chat.ask("Hello")
    page.wait_for_selector(".notice:has-text('min_p')")


def test_damaged_storage_is_no_obstacle(chat: Page) -> None:
    page = chat.open()
    page.evaluate("localStorage['whimbrel.settings'] = '{'; localStorage['whimbrel.partial'] = '[{]'")
    page.reload()
    until(page, "document.querySelector('#model')?.value")
    chat.answer_with(chunk("stop", content="Yes."))
    assert chat.ask("Hello").locator(".text").inner_text() == "Yes."
