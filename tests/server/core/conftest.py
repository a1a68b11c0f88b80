"""A whole application over a scripted model: every route and all middleware, nothing computed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from starlette.testclient import TestClient

from whimbrel.backends.llm import LLM
from whimbrel.backends.open import OpenModel
from whimbrel.backends.scripted import ScriptedExecutor
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.loading import load_text_side
from whimbrel.server.app import create_app
from whimbrel.server.settings import ServerSettings
from whimbrel.testing import tiny

Serve = Callable[..., TestClient]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama folder."""
    return tiny.write_checkpoint(tmp_path_factory.mktemp("tiny") / "llama", "llama")


@pytest.fixture
def scripted(checkpoint: Path) -> Callable[..., LLM]:
    """An LLM that says given texts, one token per character, each ended by ``</s>``; ``kind`` is its executor's class."""
    side = load_text_side(checkpoint)

    def make(*answers: str, kind: type[ScriptedExecutor] = ScriptedExecutor) -> LLM:
        tokenizer = side.tokenizer
        ids: list[Sequence[int]] = [
            [*(id for character in answer for id in tokenizer.encode(character, add_special=False)), 2]
            for answer in answers
        ]
        executor = kind(ids, eos_token_ids=tokenizer.eos_token_ids)
        template = ChatTemplate(tiny.CHAT_TEMPLATE, {})
        return LLM(
            OpenModel(executor=executor, tokenizer=tokenizer, chat_template=template, generation_config={}),
        )

    return make


@pytest.fixture
def serve(scripted: Callable[..., LLM]) -> Iterator[Serve]:
    """``serve(*answers, **settings)``: a client of a running server whose model is loaded."""
    with ExitStack() as stack:

        def start(*answers: str, load: Callable[[str], LLM] | None = None, **settings: Any) -> TestClient:
            llm = scripted(*(answers or ("hello",)))
            app = create_app(ServerSettings(**{"models": ("scripted",), **settings}), load or (lambda _: llm))
            client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False, follow_redirects=False)
            stack.enter_context(client)
            client.llm = llm  # type: ignore[attr-defined]
            until(lambda: app.state.service.ready or app.state.service.load_error)
            return client

        yield start


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for a state that other threads bring about; the time is only there so that a fault ends."""
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, "it never came about"
        sleep(0.005)


THINKING_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
"""Of a model that thinks in tags unless it is told not to."""


@pytest.fixture
def thinking() -> ChatTemplate:
    """``client.llm.chat_template = thinking`` makes a scripted model one that thinks."""
    return ChatTemplate(THINKING_TEMPLATE, {})


@pytest.fixture
def call_text() -> str:
    """How a scripted model calls a tool: in the generic notation, since its template knows none."""
    return '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture
def read() -> Callable[..., str]:
    """``read(client)``: the prompt of the last request, as text with its control tokens."""

    def prompt(client: TestClient, number: int = -1) -> str:
        llm = client.llm  # type: ignore[attr-defined]
        return str(llm.detokenize(llm.executor.requests[number].token_ids))

    return prompt


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[TestClient, int], None]:
    """``broken(client, count)``: the first answer fails at its token of that number, with an error nobody foresaw."""

    def breaks(client: TestClient, at: int) -> None:
        executor = client.llm.executor  # type: ignore[attr-defined]
        step = executor._step

        def failing(number: int, request: Any, ids: Any, prompt: int, count: int, reason: Any) -> Any:
            if count == at and number == 0:
                raise RuntimeError("a secret of the server")
            return step(number, request, ids, prompt, count, reason)

        monkeypatch.setattr(executor, "_step", failing)

    return breaks


@pytest.fixture(name="until")
def waiting() -> Callable[..., None]:
    """``until(condition)``: see there."""
    return until
