"""OpenAI's SDK: chat completions, whole and streamed, with every option that shapes an answer."""

import json
from typing import TYPE_CHECKING, Any

import pytest
from client_support import BIRD_SCHEMA, CAPITAL, LONG, TIME, WEATHER, Bird, is_bird, is_weather_call
from running_server import MODEL, Server

if TYPE_CHECKING:
    import openai


def ask(gpt: "openai.OpenAI", messages: Any = CAPITAL, **options: Any) -> Any:
    """A greedy, short answer unless ``options`` say otherwise."""
    return gpt.chat.completions.create(
        **{"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 32, **options}
    )


def test_an_answer_is_whole(gpt: "openai.OpenAI") -> None:
    answer = ask(gpt)
    (choice,) = answer.choices
    assert "Paris" in choice.message.content and choice.message.role == "assistant"
    assert choice.finish_reason == "stop" and choice.index == 0 and choice.message.tool_calls is None
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id and answer.created > 1.7e9
    usage = answer.usage
    assert usage.prompt_tokens > 5 and usage.completion_tokens > 3
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_conversation_goes_on_and_reads_only_what_is_new(gpt: "openai.OpenAI") -> None:
    messages = [{"role": "system", "content": "You are a guide who loves birds of the shore. " * 8}]
    messages.append({"role": "user", "content": "Name one bird."})
    first = ask(gpt, messages)
    messages.append({"role": "assistant", "content": first.choices[0].message.content})
    messages.append({"role": "user", "content": "And another one?"})
    second = ask(gpt, messages)
    assert second.choices[0].message.content
    assert second.usage.prompt_tokens > first.usage.prompt_tokens + first.usage.completion_tokens
    assert second.usage.prompt_tokens_details.cached_tokens >= 64


def test_content_may_be_parts(gpt: "openai.OpenAI") -> None:
    parts = [{"type": "text", "text": "Name the capital "}, {"type": "text", "text": "of France."}]
    answer = ask(gpt, [{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == ask(gpt).choices[0].message.content


def test_a_stream_says_the_same_piece_by_piece(gpt: "openai.OpenAI") -> None:
    chunks = list(ask(gpt, stream=True))
    assert len({chunk.id for chunk in chunks}) == 1 and {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == ask(gpt).choices[0].message.content and sum(map(bool, texts)) > 1
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons[-1] == "stop" and not any(reasons[:-1])
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_ends_with_usage_if_asked(gpt: "openai.OpenAI") -> None:
    *chunks, last = ask(gpt, stream=True, stream_options={"include_usage": True})
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == [] and last.usage == ask(gpt).usage.model_copy(
        update={"prompt_tokens_details": last.usage.prompt_tokens_details}
    )


def test_the_stream_helper_builds_the_answer(gpt: "openai.OpenAI") -> None:
    with gpt.chat.completions.stream(model=MODEL, messages=CAPITAL, temperature=0, max_tokens=32) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == ask(gpt).choices[0].message.content


def test_max_tokens_ends_by_length(gpt: "openai.OpenAI") -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = gpt.chat.completions.create(model=MODEL, messages=LONG, temperature=0, **{name: 7})
        assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 7


def test_n_gives_that_many_answers_and_a_seed_repeats_them(gpt: "openai.OpenAI") -> None:
    options = {"n": 3, "temperature": 1.0, "seed": 11, "max_tokens": 12}
    first, again = (ask(gpt, LONG, **options) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2] and len(set(texts)) > 1
    assert texts == [choice.message.content for choice in again.choices]
    assert first.usage.completion_tokens == 36
    other = ask(gpt, LONG, **{**options, "seed": 12})
    assert texts != [choice.message.content for choice in other.choices]


def test_n_streams_side_by_side(gpt: "openai.OpenAI") -> None:
    texts = ["", ""]
    for chunk in ask(gpt, stream=True, n=2):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [ask(gpt).choices[0].message.content] * 2


def test_logprobs_belong_to_the_text(gpt: "openai.OpenAI") -> None:
    (choice,) = ask(gpt, logprobs=True, top_logprobs=3).choices
    entries = choice.logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in entries).decode().startswith(choice.message.content)
    for entry in entries:
        tops = [top.logprob for top in entry.top_logprobs]
        assert len(tops) == 3 and tops == sorted(tops, reverse=True)
        assert entry.top_logprobs[0].token == entry.token and entry.logprob == tops[0] <= 0


def test_logprobs_come_in_a_stream_too(gpt: "openai.OpenAI") -> None:
    whole = ask(gpt, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    streamed = [
        entry
        for chunk in ask(gpt, logprobs=True, top_logprobs=1, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content or []
    ]
    assert [(entry.token, entry.logprob) for entry in streamed] == [(entry.token, entry.logprob) for entry in whole]


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(gpt: "openai.OpenAI") -> None:
    whole = ask(gpt).choices[0].message.content
    for stop in ("Paris", ["nothing like it", "Paris"]):
        (choice,) = ask(gpt, stop=stop).choices
        assert choice.message.content == whole.partition("Paris")[0] and choice.finish_reason == "stop"


def test_a_stop_string_never_shows_in_a_stream(gpt: "openai.OpenAI") -> None:
    texts = [choice.delta.content or "" for chunk in ask(gpt, stop="ris", stream=True) for choice in chunk.choices]
    assert "".join(texts).endswith("Pa")


def test_logit_bias_forbids_and_forces(gpt: "openai.OpenAI", server: Server) -> None:
    entries = ask(gpt, logprobs=True).choices[0].logprobs.content
    position = next(index for index, entry in enumerate(entries) if "Paris" in entry.token)
    paris = str(_token_id(server, entries[position].token))
    assert "Paris" not in ask(gpt, logit_bias={paris: -100}).choices[0].message.content
    assert ask(gpt, logit_bias={paris: 100}, max_tokens=3).choices[0].message.content.split() == ["Paris"] * 3


def test_penalties_hinder_repetition(gpt: "openai.OpenAI") -> None:
    messages = [{"role": "user", "content": "Repeat the word sea, again and again: sea sea sea sea sea sea"}]
    plain = ask(gpt, messages, max_tokens=60).choices[0].message.content
    for penalty in ("presence_penalty", "frequency_penalty"):
        varied = ask(gpt, messages, max_tokens=60, **{penalty: 2.0}).choices[0].message.content
        assert varied != plain and _variety(varied) > _variety(plain)


def test_top_p_near_zero_is_greedy(gpt: "openai.OpenAI") -> None:
    answer = ask(gpt, temperature=1.5, top_p=1e-6, seed=5)
    assert answer.choices[0].message.content == ask(gpt).choices[0].message.content


def test_a_schema_is_kept(gpt: "openai.OpenAI") -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "bird", "schema": BIRD_SCHEMA, "strict": True}}
    messages = [{"role": "user", "content": "Describe a whimbrel as JSON."}]
    for seed in range(4):
        (choice,) = ask(gpt, messages, response_format=schema, temperature=1.2, seed=seed, max_tokens=100).choices
        assert is_bird(choice.message.content) and choice.finish_reason == "stop"


def test_a_schema_is_kept_in_a_stream(gpt: "openai.OpenAI") -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "bird", "schema": BIRD_SCHEMA, "strict": True}}
    chunks = ask(gpt, response_format=schema, stream=True, max_tokens=100)
    assert is_bird("".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices))


def test_parse_gives_a_pydantic_object(gpt: "openai.OpenAI") -> None:
    parsed = gpt.chat.completions.parse(
        model=MODEL, messages=CAPITAL, response_format=Bird, temperature=0, max_tokens=300
    )
    assert isinstance(parsed.choices[0].message.parsed, Bird)


def test_the_stream_helper_parses_too(gpt: "openai.OpenAI") -> None:
    with gpt.chat.completions.stream(
        model=MODEL, messages=CAPITAL, response_format=Bird, temperature=0, max_tokens=300
    ) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Bird)


def test_json_object_is_an_object(gpt: "openai.OpenAI") -> None:
    messages = [{"role": "user", "content": "Answer in JSON with one short field: what is the capital of France?"}]
    (choice,) = ask(gpt, messages, response_format={"type": "json_object"}, max_tokens=400).choices
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    else:  # the model may write on and on, but what it has written begins an object
        assert choice.finish_reason == "length" and choice.message.content.lstrip().startswith("{")


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ({"type": "regex", "pattern": r"\d{4}-\d{2}"}, lambda text: len(text) == 7 and text[4] == "-"),
        ({"type": "choice", "choices": ["Lyon", "Paris", "Nice"]}, lambda text: text in {"Lyon", "Paris", "Nice"}),
        ({"type": "lark", "grammar": 'start: "yes" | "no"'}, lambda text: text in {"yes", "no"}),
        ({"type": "text"}, lambda text: "Paris" in text),
    ],
    ids=["regex", "choice", "lark", "text"],
)
def test_our_own_shapes_pass_through_the_sdk(gpt: "openai.OpenAI", shape: dict[str, Any], wanted: Any) -> None:
    assert wanted(ask(gpt, response_format=shape).choices[0].message.content)


def test_a_required_tool_is_called_with_valid_arguments(gpt: "openai.OpenAI") -> None:
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    (choice,) = ask(gpt, messages, tools=[WEATHER], tool_choice="required", max_tokens=120).choices
    assert choice.finish_reason == "tool_calls" and choice.message.tool_calls
    for call in choice.message.tool_calls:
        assert call.type == "function" and call.id and call.function.name == "get_weather"
        assert is_weather_call(call.function.arguments)


def test_a_named_tool_is_the_one_that_is_called(gpt: "openai.OpenAI") -> None:
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    named = {"type": "function", "function": {"name": "get_time"}}
    (choice,) = ask(gpt, messages, tools=[WEATHER, TIME], tool_choice=named, max_tokens=120).choices
    assert {call.function.name for call in choice.message.tool_calls} == {"get_time"}
    assert all(set(json.loads(call.function.arguments)) == {"place"} for call in choice.message.tool_calls)


def test_no_parallel_calls_means_one_call(gpt: "openai.OpenAI") -> None:
    messages = [{"role": "user", "content": "Weather in Oslo, Rome and Paris? And the time there?"}]
    options = {"tools": [WEATHER, TIME], "tool_choice": "required", "parallel_tool_calls": False}
    for seed in range(3):
        (choice,) = ask(gpt, messages, temperature=1.0, seed=seed, max_tokens=120, **options).choices
        assert len(choice.message.tool_calls) == 1


def test_no_tool_is_called_where_none_may_be(gpt: "openai.OpenAI") -> None:
    (choice,) = ask(gpt, tools=[WEATHER], tool_choice="none").choices
    assert choice.message.tool_calls is None and choice.message.content and choice.finish_reason in {"stop", "length"}


def test_auto_answers_or_calls(gpt: "openai.OpenAI") -> None:
    (choice,) = ask(gpt, tools=[WEATHER], tool_choice="auto", max_tokens=120).choices
    if choice.message.tool_calls:
        assert choice.finish_reason == "tool_calls"
        assert all(is_weather_call(call.function.arguments) for call in choice.message.tool_calls)
    else:
        assert choice.message.content and choice.finish_reason in {"stop", "length"}


def test_a_tools_result_is_read(gpt: "openai.OpenAI") -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    called = ask(gpt, messages, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=120)
    messages.append(called.choices[0].message)
    call = called.choices[0].message.tool_calls[0]
    messages.append({"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear", "degrees": -4}'})
    answer = ask(gpt, messages, tools=[WEATHER], tool_choice="none")
    assert answer.choices[0].message.content and answer.usage.prompt_tokens > called.usage.prompt_tokens


def test_a_call_comes_in_pieces(gpt: "openai.OpenAI") -> None:
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    options = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 120}
    chunks = list(ask(gpt, messages, stream=True, **options))
    pieces = [piece for chunk in chunks for choice in chunk.choices for piece in choice.delta.tool_calls or []]
    assert pieces[0].id and pieces[0].function.name == "get_weather" and {piece.index for piece in pieces} == {0}
    assert not any(piece.id for piece in pieces[1:]) and len(pieces) > 1
    arguments = "".join(piece.function.arguments or "" for piece in pieces)
    assert is_weather_call(arguments) and chunks[-1].choices[0].finish_reason == "tool_calls"
    whole = ask(gpt, messages, **options).choices[0].message.tool_calls[0]
    assert json.loads(whole.function.arguments) == json.loads(arguments)


def test_pydantic_tools_are_parsed(gpt: "openai.OpenAI") -> None:
    import openai

    parsed = gpt.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Note down a whimbrel: two legs, it flies."}],
        tools=[openai.pydantic_function_tool(Bird)],
        tool_choice="required",
        temperature=0,
        max_tokens=300,
    )
    calls = parsed.choices[0].message.tool_calls
    assert calls and all(isinstance(call.function.parsed_arguments, Bird) for call in calls)


def test_fields_that_are_not_served_are_named(gpt: "openai.OpenAI") -> None:
    raw = gpt.chat.completions.with_raw_response.create(
        model=MODEL, messages=CAPITAL, max_tokens=4, extra_body={"wings": 2, "mirostat": 1}
    )
    ignored = {name.strip() for name in raw.headers["x-ignored-params"].split(",")}
    assert ignored == {"wings", "mirostat"} and raw.headers["x-request-id"]
    assert raw.parse().choices[0].message.content


def test_a_stream_can_report_how_far_reading_is(gpt: "openai.OpenAI") -> None:
    messages = [{"role": "user", "content": "The sea was calm that day. " * 300 + "How was the sea?"}]
    chunks = list(ask(gpt, messages, stream=True, max_tokens=4, extra_body={"return_progress": True}))
    progress = [chunk.prompt_progress for chunk in chunks if getattr(chunk, "prompt_progress", None)]
    assert len(progress) > 1 and progress[-1]["total"] > 1500
    done = [entry["processed"] for entry in progress]
    assert done == sorted(done) and done[-1] <= progress[-1]["total"]


def test_timings_stand_beside_an_answer(gpt: "openai.OpenAI") -> None:
    answer = ask(gpt)
    assert answer.timings["predicted_n"] == answer.usage.completion_tokens
    assert answer.timings["predicted_per_second"] > 0
    assert answer.timings["prompt_n"] + answer.timings["cache_n"] == answer.usage.prompt_tokens


def _token_id(server: Server, token: str) -> int:
    """The id of one token's text, as the server's own tokenizer says."""
    import urllib.request

    body = json.dumps({"content": token, "prompt": token, "add_special": False, "add_special_tokens": False}).encode()
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/tokenize", body, headers)) as answer:
        (token_id,) = json.load(answer)["tokens"]
    return int(token_id)


def _variety(text: str) -> float:
    """Different words of a text over all of its words."""
    words = text.lower().split()
    return len(set(words)) / len(words)
