"""Anthropic's SDK: messages, streams, tools, counting, and its exceptions."""

from typing import TYPE_CHECKING, Any

import pytest
from client_support import BIRD_SCHEMA, CAPITAL, LONG, WEATHER_PARAMETERS, is_bird
from running_server import MODEL, Server

if TYPE_CHECKING:
    import anthropic

WEATHER: Any = {"name": "get_weather", "description": "The weather in a city", "input_schema": WEATHER_PARAMETERS}


def ask(claude: "anthropic.Anthropic", messages: Any = CAPITAL, **options: Any) -> Any:
    """A greedy, short answer; the SDK's own type has no ``temperature`` any more, so it goes into the body."""
    body = {"temperature": 0, **options.pop("extra_body", {})}
    return claude.messages.create(
        **{"model": MODEL, "messages": messages, "max_tokens": 32, "extra_body": body, **options}
    )


def test_a_message_is_whole(claude: "anthropic.Anthropic") -> None:
    answer = ask(claude)
    (block,) = answer.content
    assert block.type == "text" and "Paris" in block.text
    assert answer.id.startswith("msg_") and answer.type == "message" and answer.role == "assistant"
    assert answer.model == MODEL and answer.stop_reason == "end_turn" and answer.stop_sequence is None
    usage = answer.usage
    assert usage.input_tokens + usage.cache_read_input_tokens > 5 and usage.output_tokens > 3


def test_a_system_text_changes_the_answer(claude: "anthropic.Anthropic") -> None:
    question: Any = [{"role": "user", "content": [{"type": "text", "text": "Who are you?"}]}]
    told = ask(claude, question, system="You are a pirate.")
    parts = ask(claude, question, system=[{"type": "text", "text": "You are a pirate."}])
    assert told.content[0].text == parts.content[0].text != ask(claude, question).content[0].text


def test_a_conversation_of_several_turns(claude: "anthropic.Anthropic") -> None:
    messages = [*CAPITAL, {"role": "assistant", "content": ask(claude).content[0].text}]
    messages.append({"role": "user", "content": "And of Italy?"})
    answer = ask(claude, messages)
    assert answer.content[0].text and answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0) > 40


def test_a_stop_sequence_is_named(claude: "anthropic.Anthropic") -> None:
    answer = ask(claude, stop_sequences=["nothing like it", "Paris"])
    assert answer.stop_reason == "stop_sequence" and answer.stop_sequence == "Paris"
    assert answer.content[0].text == ask(claude).content[0].text.partition("Paris")[0]


def test_max_tokens_ends_a_message(claude: "anthropic.Anthropic") -> None:
    answer = ask(claude, LONG, max_tokens=7)
    assert answer.stop_reason == "max_tokens" and answer.usage.output_tokens == 7


def test_raw_events_come_in_their_order(claude: "anthropic.Anthropic") -> None:
    events = list(ask(claude, stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.index("content_block_start") < kinds.index("content_block_delta") < kinds.index("content_block_stop")
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert text == ask(claude).content[0].text
    begun = events[0].message.usage
    assert begun.input_tokens + begun.cache_read_input_tokens > 5 and events[-2].usage.output_tokens > 3
    assert events[-2].delta.stop_reason == "end_turn"


def test_the_stream_helper_gives_text_and_message(claude: "anthropic.Anthropic") -> None:
    with claude.messages.stream(model=MODEL, messages=CAPITAL, max_tokens=32, extra_body={"temperature": 0}) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text == ask(claude).content[0].text and final.stop_reason == "end_turn"


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}], ids=str)
def test_a_forced_tool_is_called(claude: "anthropic.Anthropic", choice: Any) -> None:
    question = [{"role": "user", "content": "What is the weather in Oslo?"}]
    answer = ask(claude, question, tools=[WEATHER], tool_choice=choice, max_tokens=150)
    calls = [block for block in answer.content if block.type == "tool_use"]
    assert calls and answer.stop_reason == "tool_use"
    for call in calls:
        assert call.name == "get_weather" and call.id and set(call.input) == {"city", "unit"}
        assert call.input["unit"] in {"C", "F"}


def test_a_tools_result_is_read(claude: "anthropic.Anthropic") -> None:
    messages: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
    choice = {"type": "any", "disable_parallel_tool_use": True}
    called = ask(claude, messages, tools=[WEATHER], tool_choice=choice, max_tokens=150)
    (call,) = [block for block in called.content if block.type == "tool_use"]
    messages.append({"role": "assistant", "content": called.content})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "clear, -4 degrees"}
    messages.append({"role": "user", "content": [result]})
    answer = ask(claude, messages, tools=[WEATHER], tool_choice={"type": "none"})
    assert answer.content[0].type == "text" and answer.content[0].text


def test_a_streamed_tool_call_has_its_arguments_in_pieces(claude: "anthropic.Anthropic") -> None:
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    with claude.messages.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
        max_tokens=150,
        tools=[WEATHER],
        tool_choice=choice,
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    (call,) = [block for block in final.content if block.type == "tool_use"]
    assert len(pieces) > 1 and set(call.input) == {"city", "unit"} and final.stop_reason == "tool_use"


def test_a_schema_is_kept(claude: "anthropic.Anthropic") -> None:
    shape = {"format": {"type": "json_schema", "schema": BIRD_SCHEMA}}
    assert is_bird(ask(claude, output_config=shape, max_tokens=120).content[0].text)


def test_tokens_are_counted_as_they_are_read(claude: "anthropic.Anthropic") -> None:
    counted = claude.messages.count_tokens(model=MODEL, messages=CAPITAL)
    usage = ask(claude).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    longer = claude.messages.count_tokens(model=MODEL, messages=CAPITAL, system="Be brief.", tools=[WEATHER])
    assert longer.input_tokens > counted.input_tokens


def test_errors_are_the_sdks_own(claude: "anthropic.Anthropic") -> None:
    import anthropic

    with pytest.raises(anthropic.BadRequestError) as caught:
        ask(claude, max_tokens=-1)
    body: Any = caught.value.body
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error" and body["error"]["message"]
    with pytest.raises(anthropic.BadRequestError):
        ask(claude, [])
    with pytest.raises(anthropic.BadRequestError):
        ask(claude, [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x/"}}]}])
    with pytest.raises(anthropic.NotFoundError) as caught_too:
        ask(claude, model="claude-17")
    assert "claude-17" in str(caught_too.value)


def test_a_wrong_key_is_refused(claude: "anthropic.Anthropic") -> None:
    import anthropic

    with pytest.raises(anthropic.AuthenticationError) as caught:
        ask(claude.with_options(api_key="wrong"))
    body: Any = caught.value.body
    assert body["error"]["type"] == "authentication_error"


def test_leaving_a_stream_frees_its_place(claude: "anthropic.Anthropic", server: Server) -> None:
    with claude.messages.stream(model=MODEL, messages=LONG, max_tokens=3000) as stream:
        for number, _ in enumerate(stream):
            if number > 5:
                break
        assert server.metric("whimbrel_running") == 1
    server.wait_idle(5)
