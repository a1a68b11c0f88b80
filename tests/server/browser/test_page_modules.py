"""The page's pure modules, run where they run: in the browser, under the page's Content-Security-Policy."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chat_page import Page
from running_server import Server

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(browser: Any, server: Server) -> Iterator[Run]:
    """``run(module, body, *arguments)``: the value of a function body, in which ``m`` is the module and ``a`` the arguments."""
    chat = Page(browser, server)
    page = chat.open()
    yield lambda module, body, *arguments: page.evaluate(
        f"async a => {{ const m = await import('/page/{module}.js'); {body} }}", list(arguments)
    )
    chat.close()


def html(run: Run, text: str) -> str:
    """Markdown as elements."""
    body = "const box = document.createElement('div'); box.append(m.render(a[0])); return box.innerHTML"
    return str(run("markdown", body, text))


# --- markdown

CASES = [
    ("plain", "<p>plain</p>"),
    ("**bold** and *both **of** them*", "<p><strong>bold</strong> and <em>both <strong>of</strong> them</em></p>"),
    ("***all***", "<p><strong><em>all</em></strong></p>"),
    ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
    ("~~gone~~ `a *b*` ``c`d``", "<p><del>gone</del> <code>a *b*</code> <code>c`d</code></p>"),
    (r"\*no\* \`no\`", "<p>*no* `no`</p>"),
    ("a line\nand another", "<p>a line<br>and another</p>"),
    (f"{'so many words ' * 5}\ngo on", f"<p>{'so many words ' * 4}so many words go on</p>"),
    ("## Two ##", "<h4>Two</h4>"),
    ("---", "<hr>"),
    ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
    ("- a\n- b\n  - c", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>"),
    ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    ("in the year\n1984. was", "<p>in the year<br>1984. was</p>"),
    ("<b>no</b> &amp;", "<p>&lt;b&gt;no&lt;/b&gt; &amp;amp;</p>"),
    ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"),
    ("[x](data:text/html,1)", "<p>[x](data:text/html,1)</p>"),
]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text[:24] for text, _ in CASES])
def test_markdown(run: Run, text: str, expected: str) -> None:
    assert html(run, text) == expected


def test_links_leave_without_a_trace_and_pictures_are_links(run: Run) -> None:
    link = '<a href="https://example.org/a_(b)" target="_blank" rel="noopener noreferrer">'
    assert html(run, "[a *b*](https://example.org/a_(b))") == f"<p>{link}a <em>b</em></a></p>"
    assert html(run, "![cat](https://example.org/a_(b))") == f"<p>{link}cat</a></p>"
    assert html(run, "see https://example.org/a_(b).").startswith("<p>see <a href=")
    assert "<img" not in html(run, "![x](https://example.org/x.png) <img src=x onerror=alert(1)>")


def test_code_and_tables(run: Run) -> None:
    code = html(run, "```python\nx = '<b>'\n```")
    assert "<code>x = '&lt;b&gt;'</code>" in code and "python" in code and "Copy" in code
    table = html(run, "| a | b |\n|---|--:|\n| 1 | `x|` |\n| 2 |")
    assert '<th class="to-right">b</th>' in table and table.count("<td") == 4


GROWING = "Some *words*\n\n- a\n- b\n\n  more\n1. one\n\n```js\nlet x = 1;\n\n```\n\n| h |\n|---|\n| 1 |\n\n> quoted\n> on\n\nend **bold**\n# T\n---\nx"


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 19])
def test_a_growing_text_ends_as_the_whole_one(run: Run, cut: int) -> None:
    body = """
        const box = document.createElement('div'), whole = document.createElement('div');
        const view = new m.MarkdownView(box);
        for (let end = a[1]; end < a[0].length + a[1]; end += a[1]) view.set(a[0].slice(0, end));
        whole.append(m.render(a[0]));
        return [box.innerHTML, whole.innerHTML];
    """
    grown, whole = run("markdown", body, GROWING, cut)
    assert grown == whole


def test_what_was_said_is_not_drawn_again(run: Run) -> None:
    body = """
        const box = document.createElement('div');
        const view = new m.MarkdownView(box);
        view.set('first\\n\\nsecond\\n\\nthird');
        const first = box.firstChild;
        view.set('first\\n\\nsecond\\n\\nthird and more\\n\\nfourth');
        return [first === box.firstChild, box.children.length];
    """
    assert run("markdown", body) == [True, 4]


HOSTILE = ["*a ", "`a", "[", "> ", "**a*", "_a_b", "- ", "|", "[a](", "http://", "***", "```\n", "|\n|-\n"]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_ends(run: Run, piece: str) -> None:
    body = "const box = document.createElement('div'); box.append(m.render(a[0])); return box.textContent.length"
    assert run("markdown", body, piece * 20000) >= 0


# --- the tree


def test_branches(run: Run) -> None:
    body = """
        const tree = new m.Tree();
        const q = tree.add(m.ROOT, {role: 'user', content: 'q'});
        const a1 = tree.add(q.id, {content: 'a1'});
        const a2 = tree.add(q.id, {content: 'a2'});
        const f = tree.add(a2.id, {content: 'f'});
        const texts = () => tree.path().map(node => node.content).join(' ');
        const seen = [texts(), tree.versions(a1.id).length];
        tree.step(a2.id, -1); seen.push(texts());
        tree.step(a1.id, -1); seen.push(texts());
        tree.step(a1.id, 1); seen.push(texts());
        const again = new m.Tree(JSON.parse(JSON.stringify(tree.nodes().reverse())), tree.chosen);
        tree.choose(a1.id);
        seen.push(again.path().map(node => node.content).join(' '), tree.pathTo(f.id).map(node => node.content).join(' '));
        const orphan = new m.Tree([{id: 'x', parent: 'gone', order: 1}]);
        seen.push(orphan.size);
        return seen;
    """
    assert run("tree", body) == ["q a2 f", 2, "q a1", "q a1", "q a2 f", "q a2 f", "q a2 f", 0]


# --- positions and numbers


def test_code_points_are_no_utf16_units(run: Run) -> None:
    text = "a😀b😀😀c"
    body = """
        const points = new m.CodePoints(a[0]);
        return [points.length, [...Array(points.length + 1).keys()].map(i => points.toUnits(i)), points.toPoints(6)];
    """
    length, units, back = run("format", body, text)
    assert length == len(text) and back == 4
    assert units == [len(text[:i].encode("utf-16-le")) // 2 for i in range(len(text) + 1)]


def test_numbers_for_people(run: Run) -> None:
    body = "return [m.duration(0.42), m.duration(7.6), m.duration(75), m.duration(7500), m.bytes(118e6), m.bytes(900), m.speed(8.44), m.speed(1234.5), m.percent(0.123), m.percent(0.004)]"
    assert run("format", body) == [
        "0.4 s",
        "8 s",
        "1 min 15 s",
        "2 h 5 min",
        "113 MB",
        "900 B",
        "8.4",
        "1,235",
        "12%",
        "0.4%",
    ]


# --- requests


def request(run: Run, **given: Any) -> Any:
    settings = run("settings", "return {...m.DEFAULTS, ...a[0]}", given.pop("settings", {}))
    whole = {"path": [{"role": "user", "content": "q"}], "documents": [], "model": "x", **given, "settings": settings}
    return run("request", "return m.chatRequest(a[0])", whole)


def test_what_is_set_is_sent_and_nothing_else(run: Run) -> None:
    body = request(run, settings={"temperature": 0, "stop": "END\n\\n", "system": "Be brief", "max_tokens": None})
    assert body["temperature"] == 0 and body["stop"] == ["END", "\n"]
    assert body["messages"][0] == {"role": "system", "content": "Be brief"}
    assert not {"top_p", "top_k", "min_p", "seed", "max_tokens", "tools", "passages"} & set(body)


def test_documents_stand_in_the_first_question(run: Run) -> None:
    path = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "", "state": "failed"},
        {"role": "user", "content": "two"},
    ]
    body = request(run, path=path, documents=["file-1"])
    first, second = body["messages"]
    assert first["content"] == [{"type": "file", "file": {"file_id": "file-1"}}, {"type": "text", "text": "one"}]
    assert second == {"role": "user", "content": "two"} and body["passages"] == 4


def test_calls_and_results_go_back_as_they_came(run: Run) -> None:
    call = {"id": "c1", "name": "f", "arguments": "{}"}
    path = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "toolCalls": [call]},
        {"role": "tool", "content": "42", "toolCallId": "c1", "toolName": "f"},
    ]
    body = request(run, path=path, settings={"tools": '{"name": "f"}', "tool_choice": "required"})
    function = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert body["messages"][1] == {"role": "assistant", "content": None, "tool_calls": [function]}
    assert body["messages"][2] == {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "42"}
    assert body["tool_choice"] == "auto", "after a result nothing is required again"


@pytest.mark.parametrize(("tools", "message"), [("[", "no JSON"), ('[{"a": 1}]', 'Tool 1 has no "name"')])
def test_damaged_tools_are_named(run: Run, tools: str, message: str) -> None:
    body = "try { m.parseTools(a[0]); } catch (error) { return error.message; }"
    assert message in run("settings", body, tools)


def test_settings_out_of_range_are_never_kept(run: Run) -> None:
    body = "return a[0].map(([name, value]) => m.checked(name, value))"
    given = [
        ["temperature", 9],
        ["temperature", 0.5],
        ["top_k", 1.5],
        ["theme", "pink"],
        ["system", 3],
        ["passages", -1],
    ]
    assert run("settings", body, given) == [None, 0.5, None, "auto", "", 4]


# --- errors


@pytest.mark.parametrize(
    ("status", "fields", "title", "action"),
    [
        (429, {"message": "64 wait"}, "The server is busy", "retry"),
        (401, {}, "This server wants a key", "login"),
        (400, {"message": "no such field", "param": "min_p"}, "The server can't do what was asked", "settings"),
        (400, {"code": "context_length_exceeded"}, "That is longer than the model can read", None),
        (404, {}, "It is not there any more", "retry"),
        (503, {}, "The server is not ready", "retry"),
        (500, {}, "The server made a mistake", "retry"),
    ],
)
def test_errors_say_what_to_do(run: Run, status: int, fields: Any, title: str, action: str | None) -> None:
    said = run("errors", "return m.explain(new m.ServerError(...a))", status, fields, None)
    assert (said["title"], said["action"]) == (title, action)
    assert said["message"] or said["advice"]


# --- files


def test_an_import_never_overwrites_and_is_checked(run: Run) -> None:
    messages = [
        {"id": "a", "parent": "root", "order": 0, "role": "user", "content": "q", "evil": {"x": 1}},
        {
            "id": "b",
            "parent": "a",
            "order": 1,
            "role": "assistant",
            "content": "r",
            "passages": "no list",
            "heat": [0.5],
        },
        {"id": "c", "parent": "a", "order": 2, "role": "assistant", "content": "s"},
    ]
    conversation = {"title": "T", "chosen": {"a": "b"}, "documents": ["file-1", 3]}
    text = run("export", "return m.toJson(a)", {"conversation": conversation, "messages": messages})
    body = "return m.fromJson(a[0])[0]"
    first, second = run("export", body, text), run("export", body, text)
    ids = [message["id"] for message in first["messages"]]
    assert not set(ids) & {"a", "b", "c", *(message["id"] for message in second["messages"])}
    assert first["conversation"]["chosen"][ids[0]] == ids[1] and first["conversation"]["documents"] == ["file-1"]
    assert "evil" not in first["messages"][0] and "passages" not in first["messages"][1]
    assert first["messages"][1]["heat"] == [0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ('{"format": "other"}', "no export"),
        ('{"format": "whimbrel-conversations", "version": 9}', "version 9"),
        ('{"format": "whimbrel-conversations", "version": 1, "conversations": [{}]}', "Conversation 1"),
    ],
)
def test_files_that_are_no_export_are_refused(run: Run, text: str, message: str) -> None:
    assert message in run("export", "try { m.fromJson(a[0]); } catch (error) { return error.message; }", text)


def test_markdown_exports_fence_what_has_fences(run: Run) -> None:
    body = """
        const { Tree, ROOT } = await import('/page/tree.js');
        const tree = new Tree();
        const q = tree.add(ROOT, {role: 'user', content: 'q'});
        const call = tree.add(q.id, {role: 'assistant', content: '', model: 'm', toolCalls: [{id: '1', name: 'f', arguments: '{}'}]});
        tree.add(call.id, {role: 'tool', content: '```\\nx\\n```', toolName: 'f'});
        return m.toMarkdown({title: 'T', documents: ['d']}, tree, () => 'notes.txt');
    """
    text = run("export", body)
    assert text.startswith("# T\n\nAbout: notes.txt\n\n## You\n\nq") and "Calls `f`:\n\n```json\n{}\n```" in text
    assert "````\n```\nx\n```\n````" in text


# --- the stream


def test_events_are_read_however_they_are_cut(run: Run) -> None:
    events = [{"choices": [{"delta": {"content": "é😀"}}]}, {"usage": {"x": 1}}]
    text = (
        ": ping\n\n"
        + "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events)
        + "data: [DONE]\n\n"
    )
    body = """
        const bytes = new TextEncoder().encode(a[0]), found = [];
        for (const size of [1, 7, 1000]) {
            const parts = new ReadableStream({start(c) {
                for (let i = 0; i < bytes.length; i += size) c.enqueue(bytes.slice(i, i + size));
                c.close();
            }});
            const seen = [];
            for await (const event of m.events(new Response(parts))) seen.push(event);
            found.push(seen);
        }
        return found;
    """
    assert run("api", body, text) == [[*events, {"done": True}]] * 3


def test_an_error_in_the_middle_of_a_stream_is_one(run: Run) -> None:
    text = 'data: {"error": {"message": "full", "type": "rate_limit_error"}}\n\n'
    body = "try { for await (const _ of m.events(new Response(a[0]))); } catch (error) { return [error.status, error.message]; }"
    assert run("api", body, text) == [429, "full"]
