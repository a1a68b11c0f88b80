"""How the page looks and reads: names, roles and contrast in both themes, a phone, the keyboard alone, a screen reader."""

from typing import Any

import pytest
from chat_page import DOCUMENT, Page, chunk, until

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

EVERYTHING = """# Title

Some **bold**, *slanted*, ~~gone~~ `code` and [a link](https://example.org).

| a | b |
|---|--:|
| 1 | 2 |

1. one
   - deep
2. [x] two

> quoted

```python
a_very_long_line = "that is wider than any phone, so that it has to be scrolled" + "x" * 120 + "y" * 80
```
"""

CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}


def violations(page: Any) -> list[str]:
    """What axe-core finds: names, roles, contrast, ..."""
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"]]


def fill(chat: Page) -> None:
    """One message of every kind: thinking, all of Markdown, a call, a result, an error, a version."""
    chat.answer_with(chunk(reasoning_content="Let me think."), chunk("stop", content=EVERYTHING))
    chat.ask("Show everything.")
    chat.page.locator(".thinking summary").click()
    chat.page.locator(".answer button[aria-label='Answer again']").click()
    chat.answered()
    chat.answer_with(chunk("tool_calls", tool_calls=[CALL]))
    answer = chat.ask("The weather?")
    chat.answer_with(chunk("tool_calls", tool_calls=[CALL]))
    answer.locator("textarea").fill("Sunny")
    answer.locator("button:has-text('Send the result')").click()
    until(chat.page, "document.querySelectorAll('.call textarea').length === 2")
    chat.answer_with({"error": {"message": "out of order", "type": "server_error"}})
    chat.ask("And now?")
    chat.page.unroute_all()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_state_is_accessible(chat: Page, theme: str) -> None:
    page = chat.open(theme=theme)
    assert violations(page) == [], "empty"
    fill(chat)
    assert violations(page) == [], "messages"
    for keys, waits in (("Alt+s", ".settings"), ("Alt+m", ".model.loaded")):
        page.keyboard.press(keys)
        page.wait_for_selector(f"#panel {waits}")
        assert violations(page) == [], keys
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    assert violations(page) == [], "help"
    page.keyboard.press("Escape")
    page.locator("#bar button[aria-label='This conversation']").click()
    assert violations(page) == [], "menu"
    page.keyboard.press("Escape")
    page.keyboard.press("Alt+n")
    chat.add_document()
    chat.ask("Which two methods does it add?").locator(".passage").first.click()
    page.wait_for_selector("#panel mark.current")
    assert violations(page) == [], "document"


def test_the_login_page_is_accessible(chat: Page) -> None:
    chat.page.goto("/")
    chat.page.fill("input[name=key]", "wrong")
    chat.page.click("button")
    for scheme in ("light", "dark"):
        chat.page.emulate_media(color_scheme=scheme)
        assert violations(chat.page) == [], scheme
    chat.forgive(401)


def test_a_phone_never_scrolls_sideways(phone: Page) -> None:
    page = phone.open()

    def fits() -> bool:
        inside = "e => e.scrollWidth <= e.clientWidth"
        parts = ("#scroller", ".panel-body", "#sidebar")
        return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth")) and all(
            page.locator(part).evaluate_all(f"all => all.every({inside})") for part in parts
        )

    fill(phone)
    assert fits() and violations(page) == []
    page.locator("#bar button[aria-label='Conversations']").click()
    page.wait_for_selector("body.sidebar-open #sidebar .new")
    assert fits() and page.evaluate("document.querySelector('#main').inert")
    page.locator("#shade").click(position={"x": 380, "y": 400})
    page.locator("#bar button[aria-label='Settings']").click()
    page.wait_for_selector("#panel .settings")
    assert fits()
    page.locator("#panel button[aria-label='Close the panel']").click()
    assert page.evaluate("document.activeElement.ariaLabel") == "Settings"
    page.locator("#bar button[aria-label='Conversations']").click()
    page.locator("#sidebar .new").click()
    phone.add_document()
    phone.ask("Which two methods does it add?").locator(".passage").first.click()
    page.wait_for_selector("#panel mark.current")
    assert fits() and page.evaluate("document.querySelector('#main').inert")
    page.keyboard.press("Escape")
    assert not page.locator("#panel").is_visible()


def test_everything_without_a_mouse(chat: Page) -> None:
    page = chat.open()
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.keyboard.type("Name a bird.")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("One word.")
    page.keyboard.press("Enter")
    chat.answered()
    assert page.locator(".bubble").inner_text() == "Name a bird.\nOne word."
    tab_to(page, "Answer again")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer .place:has-text('2/2')")
    chat.answered()
    tab_to(page, "Previous version of this answer")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer .place:has-text('1/2')")
    assert page.evaluate("document.activeElement.ariaLabel") == "Previous version of this answer", "the focus stays"
    page.focus("#prompt")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.ariaLabel").startswith("The question")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.ariaLabel") == "Edit the question"
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open] .keys")
    page.keyboard.press("Escape")
    until(page, "!document.querySelector('dialog')")
    assert page.evaluate("document.activeElement.ariaLabel") == "Edit the question"
    tab_to(page, "This conversation")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")  # the last entry: delete
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#empty:not([hidden])")
    reached = tab_stops(page)
    for name in (
        "New conversation",
        "Find conversations",
        "Message",
        "Model",
        "Settings",
        "Add a document",
        "Keys and help",
    ):
        assert name in reached, (name, reached)


NAME = "document.activeElement.ariaLabel || document.activeElement.textContent.trim()"


def tab_to(page: Any, name: str) -> None:
    """Press Tab until that has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(NAME) == name:
            return
    raise AssertionError(f"{name!r} can't be reached by Tab")


def tab_stops(page: Any) -> set[str]:
    """Names of all that Tab leads to."""
    page.evaluate("document.querySelector('.skip').focus()")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(NAME))
    return reached


def test_passages_and_heat_by_key(chat: Page) -> None:
    page = chat.open()
    chat.add_document()
    answer = chat.ask("Which two methods does it add?")
    page.focus("#prompt")
    page.evaluate("document.querySelector('.answer .heat').focus()")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "passage"
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel mark.current")
    assert page.evaluate("document.activeElement.id") == "panel-title"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "passage", "the focus comes back"
    page.keyboard.press("Alt+d")
    assert page.locator("#panel-title").inner_text() == DOCUMENT.name
    assert answer.locator(".passage").count() == 4


def test_a_screen_reader_hears_an_answer_once(chat: Page) -> None:
    page = chat.open()
    page.evaluate(
        """() => {
            window.heard = [];
            const live = document.querySelector('[aria-live=polite]');
            new MutationObserver(() => live.textContent && heard.push(live.textContent)).observe(live, {childList: true});
        }"""
    )
    text = chat.ask("Name three birds.").locator(".text").inner_text()
    until(page, "heard.length > 0")
    page.wait_for_timeout(200)
    [heard] = page.evaluate("heard")
    assert heard.startswith("Answer:") and text.split()[0] in heard
    assert not page.locator("#messages[aria-live], #messages [aria-live]").count()
