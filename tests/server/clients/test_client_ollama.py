"""Ollama's client: chat, generate, models and embeddings."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from client_support import BIRD_SCHEMA, CAPITAL, LONG, WEATHER, is_bird
from running_server import MODEL, Server

if TYPE_CHECKING:
    import ollama

GREEDY: Any = {"temperature": 0, "num_predict": 32}


def test_a_chat_answers(llama: "ollama.Client") -> None:
    answer = llama.chat(MODEL, CAPITAL, options=GREEDY)
    assert "Paris" in answer.message.content and answer.message.role == "assistant"
    assert answer.done and answer.done_reason == "stop" and answer.model == MODEL and answer.created_at
    assert answer.prompt_eval_count > 5 and answer.eval_count > 3
    assert answer.total_duration >= answer.eval_duration > 0 and answer.prompt_eval_duration > 0


def test_a_chat_streams(llama: "ollama.Client") -> None:
    parts = list(llama.chat(MODEL, CAPITAL, options=GREEDY, stream=True))
    text = "".join(part.message.content for part in parts)
    assert text == llama.chat(MODEL, CAPITAL, options=GREEDY).message.content and len(parts) > 1
    assert parts[-1].done and not any(part.done for part in parts[:-1]) and parts[-1].eval_count > 3


def test_options_are_obeyed(llama: "ollama.Client") -> None:
    cut = llama.chat(MODEL, LONG, options={**GREEDY, "num_predict": 7})
    assert cut.eval_count == 7 and cut.done_reason == "length"
    stopped = llama.chat(MODEL, CAPITAL, options={**GREEDY, "stop": ["Paris"]})
    assert "Paris" not in stopped.message.content and stopped.done_reason == "stop"
    seeded = [llama.chat(MODEL, LONG, options={"seed": s, "temperature": 1, "num_predict": 12}) for s in (1, 1, 2)]
    texts = [answer.message.content for answer in seeded]
    assert texts[0] == texts[1] != texts[2]


def test_a_schema_is_kept(llama: "ollama.Client") -> None:
    answer = llama.chat(MODEL, CAPITAL, format=BIRD_SCHEMA, options={**GREEDY, "num_predict": 100})
    assert is_bird(answer.message.content)
    written = llama.generate(MODEL, "Describe a gull.", format=BIRD_SCHEMA, options={**GREEDY, "num_predict": 100})
    assert is_bird(written.response)


def test_json_begins_an_object(llama: "ollama.Client") -> None:
    answer = llama.chat(MODEL, CAPITAL, format="json", options={**GREEDY, "num_predict": 60})
    assert answer.message.content.lstrip().startswith("{")


def test_tools_are_taken_and_their_results_read(llama: "ollama.Client") -> None:
    messages: list[Any] = [{"role": "user", "content": "Call get_weather for Oslo in C."}]
    answer = llama.chat(MODEL, messages, tools=[WEATHER], options={**GREEDY, "num_predict": 120})
    for call in answer.message.tool_calls or []:
        assert call.function.name == "get_weather" and isinstance(call.function.arguments, dict)
    assert answer.message.tool_calls or answer.message.content
    call = {"function": {"name": "get_weather", "arguments": {"city": "Oslo", "unit": "C"}}}
    messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
    messages.append({"role": "tool", "content": "clear, -4 degrees", "tool_name": "get_weather"})
    told = llama.chat(MODEL, messages, options=GREEDY)
    assert told.message.content and told.prompt_eval_count > 20


def test_generate_answers_through_the_template(llama: "ollama.Client") -> None:
    written = llama.generate(MODEL, "Name the capital of France.", options=GREEDY)
    assert written.response == llama.chat(MODEL, CAPITAL, options=GREEDY).message.content and written.done
    told = llama.generate(MODEL, "Who are you?", system="You are a pirate.", options=GREEDY)
    assert told.response != llama.generate(MODEL, "Who are you?", options=GREEDY).response


def test_generate_raw_goes_on_with_the_text(llama: "ollama.Client") -> None:
    written = llama.generate(MODEL, "The capital of France is", raw=True, options={**GREEDY, "num_predict": 8})
    assert "Paris" in written.response


def test_generate_streams(llama: "ollama.Client") -> None:
    parts = list(llama.generate(MODEL, "Name the capital of France.", options=GREEDY, stream=True))
    assert "Paris" in "".join(part.response for part in parts) and parts[-1].done and len(parts) > 1


def test_models_are_listed_shown_and_seen_at_work(llama: "ollama.Client") -> None:
    (found,) = [model for model in llama.list().models if model.model and model.model.split(":")[0] == MODEL]
    assert found.size > 50e6 and found.details.format == "gguf" and found.modified_at
    shown = llama.show(MODEL)
    assert shown.details.family == "llama" and shown.modelinfo["general.architecture"] == "llama"
    assert "completion" in shown.capabilities and shown.template
    (working,) = [model for model in llama.ps().models if model.model.split(":")[0] == MODEL]
    assert working.size > 0


def test_embeddings(llama: "ollama.Client") -> None:
    texts = ["A gull flies over the sea.", "A seagull is flying above the ocean.", "Tax returns are due in April."]
    gull, seagull, tax = (np.array(vector) for vector in llama.embed(MODEL, texts).embeddings)
    assert gull.shape == (576,) and gull @ seagull > gull @ tax
    assert np.isclose(np.linalg.norm(gull), 1, atol=1e-3)
    (alone,) = llama.embed(MODEL, texts[0]).embeddings
    assert np.allclose(alone, gull, atol=1e-5)


def test_errors_are_the_clients_own(llama: "ollama.Client") -> None:
    import ollama

    with pytest.raises(ollama.ResponseError) as caught:
        llama.chat("llama17", CAPITAL)
    assert caught.value.status_code == 404 and "llama17" in caught.value.error
    with pytest.raises(ollama.ResponseError) as caught:
        llama.chat(MODEL, CAPITAL, options={"temperature": -1})
    assert caught.value.status_code == 400 and "temperature" in caught.value.error


def test_a_wrong_key_is_refused(server: Server) -> None:
    import ollama

    with pytest.raises(ollama.ResponseError) as caught:
        ollama.Client(host=server.url, headers={"Authorization": "Bearer wrong"}).list()
    assert caught.value.status_code == 401


def test_a_stream_that_is_left_frees_its_place(llama: "ollama.Client", server: Server) -> None:
    parts = llama.chat(MODEL, LONG, stream=True, options={"num_predict": 3000})
    next(iter(parts))
    parts.close()  # type: ignore[attr-defined]
    server.wait_idle(5)
