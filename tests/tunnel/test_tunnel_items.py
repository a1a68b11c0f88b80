"""Items from questions: reasoning of the set or of a writer, kept at once, rejected with a reason."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from whimbrel.errors import DownloadError, FormatError, UsageError
from whimbrel.eval.conditional import read_items
from whimbrel.tunnel.items import Endpoint, read_questions, write_items

GSM8K = {
    "question": "Weng earns $12 an hour. For 50 minutes?",
    "answer": "12/60 = 0.2 a minute.\n0.2 x 50 = 10.\n#### 10",
}
CHOICE = {"id": "c", "question": "Which is a bird?", "options": ["whimbrel", "wombat"], "answer": 0}


def file_of(folder: Path, *lines: object) -> Path:
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_worked_answers_are_taken_apart_and_choices_lettered(tmp_path: Path) -> None:
    worked, choice = read_questions(file_of(tmp_path, GSM8K, CHOICE))
    assert (worked.reasoning, worked.label) == ("12/60 = 0.2 a minute.\n0.2 x 50 = 10.", "The answer is 10")
    assert choice.instruction.endswith("A. whimbrel\nB. wombat") and choice.label == "The answer is A"
    with pytest.raises(FormatError, match="line 2: `question` and `answer`"):
        read_questions(file_of(tmp_path, GSM8K, {"question": "?"}))


def test_a_writer_is_told_the_answer_and_asked_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def writer(request: str) -> str:
        asked.append(request)
        return "Whimbrels fly."

    questions, path = read_questions(file_of(tmp_path, GSM8K, CHOICE)), tmp_path / "items.jsonl"
    assert write_items(questions, path, writer=writer) == {"kept": 1, "written": 1}
    assert "The right answer is: The answer is A" in asked[0]
    path.write_bytes(path.read_bytes() + b'{"id": "ha')
    assert write_items(questions, path, writer=writer) == {"here": 2}
    assert len(asked) == 1 and [item.reasoning for item in read_items(path)][1] == "Whimbrels fly."


def test_without_a_writer_or_with_a_bad_one_nothing_is_made_up(tmp_path: Path) -> None:
    questions, path = read_questions(file_of(tmp_path, CHOICE)), tmp_path / "items.jsonl"
    with pytest.raises(UsageError, match="c has no reasoning; name a writer"):
        write_items(questions, path)
    assert write_items(questions, path, writer=lambda request: " ") == {"empty": 1}
    assert write_items(questions, path, writer=lambda request: "x" * 5000) == {"too long": 1}
    assert read_items(path) == []


class Server(BaseHTTPRequestHandler):
    """Says the key it was given, or refuses."""

    def do_POST(self) -> None:  # noqa: N802, RUF100
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        good = body["model"] == "m"
        text = {
            "choices": [{"message": {"content": f"{self.headers['Authorization']}: {body['messages'][0]['content']}"}}]
        }
        data = json.dumps(text if good else {"error": "no such model"}).encode()
        self.send_response(200 if good else 404)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_an_endpoint_writes_and_its_refusal_is_shown() -> None:
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        assert Endpoint(url, "m", key="k")("why?") == "Bearer k: why?"
        with pytest.raises(DownloadError, match="404.*no such model"):
            Endpoint(url, "x")("why?")
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(DownloadError, match="no answer that could be read"):
        Endpoint(url, "m", seconds=2)("why?")
