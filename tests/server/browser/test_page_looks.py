"""How the page looks and reads: accessibility, both themes, a phone; and its pure modules, run where they run."""

from typing import Any

import pytest
from chat_page import Page

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")


def violations(page: Any) -> list[str]:
    """What axe-core finds: names, roles, contrast, ..."""
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_state_is_accessible(chat: Page, theme: str) -> None:
    page = chat.open(theme=theme)
    assert violations(page) == []
    chat.add_document()
    chat.ask("Which two methods does it add?").locator(".passage").first.click()
    page.wait_for_selector("#panel mark.current")
    assert violations(page) == []
    for keys in ("Alt+s", "Alt+m"):
        page.keyboard.press(keys)
        page.wait_for_timeout(300)
        assert violations(page) == [], keys
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    assert violations(page) == []


def test_a_phone_never_scrolls_sideways(phone: Page) -> None:
    page = phone.open()

    def wide() -> int:
        return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))

    phone.ask("Write this as a table and as code: a = 1, b = 2, and a very_long_name_" + "x" * 120)
    assert wide() <= 0
    page.locator("#bar button[aria-label='Conversations']").click()
    page.wait_for_selector("body.sidebar-open #sidebar .new")
    assert wide() <= 0 and page.evaluate("document.querySelector('#main').inert")
    page.locator("#shade").click(position={"x": 380, "y": 400})
    page.locator("#bar button[aria-label='Settings']").click()
    page.wait_for_selector("#panel .settings")
    assert wide() <= 0
    page.locator("#panel button[aria-label='Close the panel']").click()
    assert page.evaluate("document.activeElement.ariaLabel") == "Settings"


def test_model_text_never_becomes_markup(chat: Page) -> None:
    page = chat.open()
    shown = page.evaluate(
        """async text => {
            const { render } = await import('/page/markdown.js');
            const box = document.createElement('div');
            box.append(render(text));
            return {html: box.innerHTML, tags: [...box.querySelectorAll('*')].map(e => e.localName), text: box.textContent};
        }""",
        "# Title\n\n<img src=x onerror=alert(1)> **bold** `code` [bad](javascript:alert(1)) [good](https://example.org)\n\n"
        "| a | b |\n|---|--:|\n| 1 | 2 |\n\n```py\nx = '<b>'\n```\n\n1. one\n2. two\n   - deep\n",
    )
    assert not {"img", "script", "b"} & set(shown["tags"])
    assert {"h3", "strong", "code", "table", "pre", "ol", "ul", "a"} <= set(shown["tags"])
    assert "<img src=x onerror=alert(1)>" in shown["text"] and 'href="javascript' not in shown["html"]
    assert 'rel="noopener' in shown["html"]


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 19])
def test_a_growing_text_ends_as_the_whole_one(chat: Page, cut: int) -> None:
    page = chat.open()
    text = "Some *words*\n\n- a\n- b\n\n```js\nlet x = 1;\n```\n\n| h |\n|---|\n| 1 |\n\n> quoted\n\nend **bold**"
    same = page.evaluate(
        """async ([text, cut]) => {
            const { MarkdownView, render } = await import('/page/markdown.js');
            const box = document.createElement('div'), whole = document.createElement('div');
            const view = new MarkdownView(box);
            for (let end = cut; end < text.length + cut; end += cut) view.set(text.slice(0, end));
            whole.append(render(text));
            return [box.innerHTML, whole.innerHTML];
        }""",
        [text, cut],
    )
    assert same[0] == same[1]


def test_code_points_are_no_utf16_units(chat: Page) -> None:
    page = chat.open()
    units = page.evaluate(
        """async () => {
            const { CodePoints } = await import('/page/format.js');
            const points = new CodePoints('a😀b😀😀c');
            return [points.length, ...[0, 1, 2, 3, 4, 5, 6].map(i => points.toUnits(i))];
        }"""
    )
    assert units == [6, 0, 1, 3, 4, 6, 8, 9]
