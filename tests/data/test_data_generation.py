"""Written documents are kept when every hard check passes, and dropped by name when one does not."""

import http.server
import json
import threading

import pytest

from whimbrel.data.document import Document, Drop, Keep, Verdict
from whimbrel.data.generation.checks import Checks, overlap
from whimbrel.data.generation.endpoint import Endpoint
from whimbrel.data.generation.generate import evolve, generate
from whimbrel.data.generation.paradigms import FORUM, TEXTBOOK, named
from whimbrel.errors import DownloadError, InvalidParameter

WORDS = [f"idea{i} yields result{i} through cause{i}." for i in range(60)]


def textbook(salt: str = "") -> str:
    body = " ".join(word.replace("idea", f"idea{salt}") for word in WORDS)
    return (
        f"## Key points\n- heat flows from warm to cold bodies {salt}\n## Explanation\n{body}\n## Summary\n"
        f"In short the warm side loses what the cold side gains {salt}.\n## Exercises\nExercise: why does tea cool down?\n"
        "Answer: because heat flows from the tea into the air around it.\n"
    )


def says(verdict: Verdict) -> str:
    return verdict.reason if isinstance(verdict, Drop) else "kept"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (textbook(), "kept"),
        ("Sure! Here it is.", "sections are missing, extra or out of order"),
        (textbook().replace("## Summary", "## Sum"), "sections are missing, extra or out of order"),
        (textbook().replace("Answer:", "Hm:"), "exercises without answers"),
        (
            textbook().replace("## Explanation\n" + " ".join(WORDS), "## Explanation\nshort one that is too short"),
            "length",
        ),
        (textbook().replace(WORDS[5], "\ufffd"), "broken characters"),
        (textbook() + "and so it goes on and on " * 30, "loops"),
    ],
)
def test_textbook(text: str, reason: str) -> None:
    assert says(Checks(TEXTBOOK)(Document(text, "x"), "a seed")) == reason


def test_a_discussion_has_three_voices() -> None:
    turns = "\n".join(f"{name}: {' '.join(WORDS[at : at + 20])}" for at, name in ((0, "Ann"), (20, "Bob"), (40, "Cem")))
    text = f"## Question\nWhy does the tea cool down so fast?\n## Discussion\n{turns}\n## Conclusion\nNow I see that heat flows away."
    assert says(Checks(FORUM)(Document(text, "x"))) == "kept"
    assert says(Checks(FORUM)(Document(text.replace("Cem:", "Ann:"), "x"))) == "fewer than three voices"


def test_copies_of_the_seed_are_dropped() -> None:
    assert says(Checks(TEXTBOOK)(Document(textbook(), "x"), " ".join(WORDS))) == "copies its seed"
    assert overlap("a " * 20, "b " * 20) == 0 and overlap("", "x") == 0


def test_what_passes_is_a_seed_of_the_next_round_and_copies_are_not() -> None:
    pytest.importorskip("rensa", reason="needs the extra [data]")
    asked: list[str] = []

    def writer(request: str) -> str:
        asked.append(request)
        return textbook(str(min(len(asked), 3)))

    seeds = [Document("about tea", "s0"), Document("about ice", "s1")]
    found = list(evolve(seeds, [TEXTBOOK], writer, {}, rounds=2))
    assert [says(verdict) for _, verdict in found] == ["kept", "kept", "kept", "near copy of a text in the pool"]
    assert "about tea" in asked[0] and "yields result3" in asked[2]
    assert found[2][0].metadata == {"paradigm": "textbook", "seed": found[0][0].id, "round": 1}


def test_an_endpoint_answers_or_is_named() -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            good = body["model"] == "m"
            answer = {"choices": [{"message": {"content": textbook()}}]} if good else {"error": "no such model"}
            self.send_response(200 if good else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        ((document, verdict),) = generate([Document("about tea", "s")], named("textbook"), Endpoint(url=url, model="m"))
        assert isinstance(verdict, Keep) and document.text == textbook().strip()
        with pytest.raises(DownloadError, match="404.*no such model"):
            Endpoint(url=url, model="x")("hello")
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(InvalidParameter, match="poem"):
        named("poem")
