"""OpenAI's SDK: completions, embeddings, models, files and responses."""

import base64
import json
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from client_support import BIRD_SCHEMA, CAPITAL, WEATHER_PARAMETERS, Bird, is_bird, is_weather_call
from running_server import MODEL

if TYPE_CHECKING:
    import openai

# --- completions


def go_on(gpt: "openai.OpenAI", prompt: Any = "The capital of France is", **options: Any) -> Any:
    """A greedy, short continuation unless ``options`` say otherwise."""
    return gpt.completions.create(**{"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 12, **options})


def test_a_text_is_continued(gpt: "openai.OpenAI") -> None:
    answer = go_on(gpt)
    (choice,) = answer.choices
    assert "Paris" in choice.text and choice.finish_reason in {"length", "stop"} and choice.index == 0
    assert answer.object == "text_completion" and answer.usage.completion_tokens <= 12


def test_a_continuation_streams(gpt: "openai.OpenAI") -> None:
    chunks = list(go_on(gpt, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == go_on(gpt).choices[0].text and chunks[-1].usage.completion_tokens > 0


def test_several_prompts_have_several_answers(gpt: "openai.OpenAI") -> None:
    prompts = ["The capital of France is", "Two and two make"]
    answer = go_on(gpt, prompts, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    alone = [go_on(gpt, prompt).choices[0].text for prompt in prompts]
    assert [choice.text for choice in answer.choices] == [alone[0], alone[0], alone[1], alone[1]]


def test_a_prompt_may_be_ids(gpt: "openai.OpenAI") -> None:
    ids = _ids(gpt, "The capital of France is")
    assert go_on(gpt, ids).choices[0].text == go_on(gpt).choices[0].text
    assert [choice.text for choice in go_on(gpt, [ids, ids]).choices] == [go_on(gpt).choices[0].text] * 2


def test_echo_scores_the_prompt(gpt: "openai.OpenAI") -> None:
    prompt = "The capital of France is Paris"
    (choice,) = go_on(gpt, prompt, echo=True, logprobs=2, max_tokens=1).choices
    found = choice.logprobs
    assert choice.text.startswith(prompt) and "".join(found.tokens) == choice.text
    assert found.token_logprobs[0] is None and all(value <= 0 for value in found.token_logprobs[1:])
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset)
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        assert choice.text[offset : offset + len(token)] == token
    paris = found.token_logprobs[-2]
    (worse,) = go_on(gpt, "The capital of France is London", echo=True, logprobs=2, max_tokens=1).choices
    assert paris > worse.logprobs.token_logprobs[-2]


def test_echo_without_new_tokens_only_scores(gpt: "openai.OpenAI") -> None:
    prompt = "The capital of France is Paris"
    (choice,) = go_on(gpt, prompt, echo=True, logprobs=0, max_tokens=0).choices
    (longer,) = go_on(gpt, prompt, echo=True, logprobs=0, max_tokens=1).choices
    assert choice.text == prompt
    assert choice.logprobs.token_logprobs == longer.logprobs.token_logprobs[:-1]


def test_logprobs_of_a_continuation(gpt: "openai.OpenAI") -> None:
    (choice,) = go_on(gpt, logprobs=3).choices
    for token, value, top in zip(*(getattr(choice.logprobs, n) for n in ("tokens", "token_logprobs", "top_logprobs"))):
        assert len(top) <= 4 and math.isclose(top[token], value) and value == max(top.values())


def test_stop_seed_and_n_of_a_continuation(gpt: "openai.OpenAI") -> None:
    assert go_on(gpt, stop=["Paris"]).choices[0].text == go_on(gpt).choices[0].text.partition("Paris")[0]
    first, again = (go_on(gpt, temperature=1.2, seed=4, n=2) for _ in range(2))
    assert [choice.text for choice in first.choices] == [choice.text for choice in again.choices]


@pytest.mark.parametrize("field", [{"suffix": " and so on."}, {"n": 2, "best_of": 3}], ids=str)
def test_what_is_not_served_is_named_or_refused(gpt: "openai.OpenAI", field: dict[str, Any]) -> None:
    import openai

    name = list(field)[-1]
    raw = gpt.completions.with_raw_response.create(model=MODEL, prompt="The sea", max_tokens=4, **field)
    assert raw.headers["x-ignored-params"] == name
    with pytest.raises(openai.BadRequestError, match=name):
        go_on(gpt, extra_headers={"X-Whimbrel-Strict": "true"}, **field)


# --- embeddings


def test_embeddings_are_near_where_meanings_are(gpt: "openai.OpenAI") -> None:
    texts = ["A gull flies over the sea.", "A seagull is flying above the ocean.", "Tax returns are due in April."]
    answer = gpt.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    gull, seagull, tax = (np.array(entry.embedding) for entry in answer.data)
    assert [entry.index for entry in answer.data] == [0, 1, 2] and gull.shape == (576,)
    assert _cosine(gull, seagull) > _cosine(gull, tax)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 15


def test_base64_embeddings_are_the_same_numbers(gpt: "openai.OpenAI") -> None:
    """The SDK asks for base64 by itself and decodes it; the raw answer shows that it was base64."""
    floats = gpt.embeddings.create(model=MODEL, input="A gull.", encoding_format="float").data[0].embedding
    assert np.allclose(gpt.embeddings.create(model=MODEL, input="A gull.").data[0].embedding, floats, atol=1e-6)
    raw = gpt.embeddings.with_raw_response.create(model=MODEL, input="A gull.", encoding_format="base64")
    sent = np.frombuffer(base64.b64decode(json.loads(raw.content)["data"][0]["embedding"]), dtype="<f4")
    assert np.allclose(sent, floats, atol=1e-6)


def test_embeddings_of_ids_are_those_of_the_text(gpt: "openai.OpenAI") -> None:
    ids = _ids(gpt, "A gull.")
    text, one, many = (
        gpt.embeddings.create(model=MODEL, input=given, encoding_format="float").data[0].embedding
        for given in ("A gull.", ids, [ids])
    )
    assert one == many == text


def test_an_empty_text_has_no_embedding(gpt: "openai.OpenAI") -> None:
    import openai

    for nothing in ("", [], [""]):
        with pytest.raises(openai.BadRequestError, match="empty|0 inputs"):
            gpt.embeddings.create(model=MODEL, input=nothing)


# --- models


def test_models_are_listed_and_found(gpt: "openai.OpenAI") -> None:
    listed = {model.id: model for model in gpt.models.list()}
    assert MODEL in listed and listed[MODEL].object == "model"
    found = gpt.models.retrieve(MODEL)
    assert found.id == MODEL and found.owned_by and found.meta["state"] == "loaded" and found.meta["context"] == 4096


# --- files

DOCUMENT = "Arrivals at the lighthouse, from the keeper's book. " + " ".join(
    f"On day {day} the {bird} came." for day, bird in enumerate(["gull", "tern", "plover", "heron"] * 6)
)
DOCUMENT += " The keeper's name is Johanna Lind."


def test_a_file_is_read_asked_and_deleted(gpt: "openai.OpenAI") -> None:
    import openai

    made = gpt.files.create(file=("book.txt", DOCUMENT.encode()), purpose="user_data")
    assert made.id.startswith("file-") and made.bytes == len(DOCUMENT.encode()) and made.filename == "book.txt"
    assert made.object == "file" and made.purpose == "user_data"
    done = gpt.files.wait_for_processing(made.id, poll_interval=0.1, max_wait_seconds=60)
    assert done.status == "processed" and done.tokens > 100
    assert made.id in {entry.id for entry in gpt.files.list()}
    assert gpt.files.content(made.id).read() == DOCUMENT.encode()

    parts = [
        {"type": "file", "file": {"file_id": made.id}},
        {"type": "text", "text": "What is the keeper's name?"},
    ]
    answer: Any = gpt.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": parts}],
        temperature=0,
        max_tokens=24,
        extra_body={"passages": 2},
    )
    assert "Johanna" in answer.choices[0].message.content
    assert answer.usage.prompt_tokens_details.cached_tokens >= 128, "the document was read again"
    passages = answer.choices[0].passages if hasattr(answer.choices[0], "passages") else answer.passages
    assert passages and all(DOCUMENT[p["start"] : p["end"]] == p["text"] for p in passages)
    assert {p["file_id"] for p in passages} == {made.id}

    assert gpt.files.delete(made.id).deleted
    for gone in (gpt.files.retrieve, gpt.files.content, gpt.files.delete):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)
    with pytest.raises(openai.APIStatusError, match=made.id):
        gpt.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}], max_tokens=4)


def test_a_file_without_text_ends_in_an_error_that_says_so(gpt: "openai.OpenAI") -> None:
    made = gpt.files.create(file=("nothing.txt", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"), purpose="user_data")
    done = gpt.files.wait_for_processing(made.id, poll_interval=0.1, max_wait_seconds=30)
    assert done.status == "error" and done.status_details
    gpt.files.delete(made.id)


# --- responses


def test_a_response_can_be_kept_continued_and_deleted(gpt: "openai.OpenAI") -> None:
    import openai

    first = gpt.responses.create(model=MODEL, input="Name the capital of France.", temperature=0)
    assert first.id.startswith("resp_") and first.status == "completed" and first.object == "response"
    assert "Paris" in first.output_text and first.usage and first.usage.output_tokens > 3
    second = gpt.responses.create(
        model=MODEL, input="And of Italy?", previous_response_id=first.id, temperature=0, max_output_tokens=40
    )
    assert second.output_text and second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    assert gpt.responses.retrieve(first.id).output_text == first.output_text
    gpt.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(first.id)
    with pytest.raises(openai.APIStatusError, match=first.id):
        gpt.responses.create(model=MODEL, input="And of Spain?", previous_response_id=first.id)


def test_a_response_that_is_not_stored_cannot_be_fetched(gpt: "openai.OpenAI") -> None:
    import openai

    made = gpt.responses.create(model=MODEL, input="Hello.", store=False, max_output_tokens=16)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(made.id)


def test_a_response_streams_typed_events(gpt: "openai.OpenAI") -> None:
    events = list(gpt.responses.create(model=MODEL, input=CAPITAL, temperature=0, stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    for kind in ("response.output_item.added", "response.content_part.added", "response.output_item.done"):
        assert kind in kinds
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text and "Paris" in text


def test_the_response_stream_helper_ends_in_the_response(gpt: "openai.OpenAI") -> None:
    with gpt.responses.stream(model=MODEL, input=CAPITAL, temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.output_text == text and final.status == "completed"


def test_a_response_cut_short_is_incomplete(gpt: "openai.OpenAI") -> None:
    cut = gpt.responses.create(model=MODEL, input="Write a long story.", max_output_tokens=16, temperature=0)
    assert cut.status == "incomplete" and cut.incomplete_details
    assert cut.incomplete_details.reason == "max_output_tokens"


def test_instructions_and_roles_of_a_response(gpt: "openai.OpenAI") -> None:
    given = {"model": MODEL, "input": "Who are you?", "temperature": 0, "max_output_tokens": 24}
    plain, told = gpt.responses.create(**given), gpt.responses.create(**given, instructions="You are a pirate.")
    assert told.instructions == "You are a pirate." and told.output_text != plain.output_text
    parts = [{"role": "user", "content": [{"type": "input_text", "text": "Who are you?"}]}]
    assert gpt.responses.create(**{**given, "input": parts}).output_text == plain.output_text


def test_a_response_keeps_a_schema(gpt: "openai.OpenAI") -> None:
    shape = {"format": {"type": "json_schema", "name": "bird", "schema": BIRD_SCHEMA, "strict": True}}
    made = gpt.responses.create(model=MODEL, input="Describe a gull.", text=shape, temperature=0)
    assert is_bird(made.output_text)
    parsed = gpt.responses.parse(
        model=MODEL, input="Describe a gull.", text_format=Bird, temperature=0, max_output_tokens=300
    )
    assert isinstance(parsed.output_parsed, Bird)


def test_a_response_calls_a_tool_and_reads_its_result(gpt: "openai.OpenAI") -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": WEATHER_PARAMETERS, "strict": True}
    given: Any = {"model": MODEL, "tools": [tool], "temperature": 0, "max_output_tokens": 150}
    first = gpt.responses.create(**given, input="Weather in Oslo?", tool_choice="required", parallel_tool_calls=False)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert call.name == "get_weather" and call.call_id and is_weather_call(call.arguments)
    result = [{"type": "function_call_output", "call_id": call.call_id, "output": '{"sky": "clear"}'}]
    second = gpt.responses.create(**given, input=result, previous_response_id=first.id, tool_choice="none")
    assert second.output_text and second.usage.input_tokens > first.usage.input_tokens


def test_a_streamed_tool_call_of_a_response(gpt: "openai.OpenAI") -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": WEATHER_PARAMETERS, "strict": True}
    events = list(
        gpt.responses.create(
            model=MODEL,
            input="Weather in Oslo?",
            tools=[tool],
            tool_choice={"type": "function", "name": "get_weather"},
            parallel_tool_calls=False,
            temperature=0,
            stream=True,
        )
    )
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert "".join(pieces) == done.arguments and is_weather_call(done.arguments)


def test_wrong_responses_are_bad_requests(gpt: "openai.OpenAI") -> None:
    import openai

    for wrong in ({"input": []}, {"temperature": -1}, {"tools": [{"type": "web_search"}]}, {"background": True}):
        with pytest.raises(openai.BadRequestError):
            gpt.responses.create(**{"model": MODEL, "input": "Hello.", "max_output_tokens": 16, **wrong})


def _ids(gpt: "openai.OpenAI", text: str) -> list[int]:
    """Ids of a text; the SDK can post to paths that it has no method for."""
    address = re.sub(r"/v1/?$", "/tokenize", str(gpt.base_url))
    answer: Any = gpt.post(address, cast_to=object, body={"content": text, "prompt": text})
    return list(answer["tokens"])


def _cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
