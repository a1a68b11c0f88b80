"""OpenAI's SDK: what goes wrong arrives as the exception that its users catch; a client that leaves frees its place."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from client_support import CAPITAL, LONG
from running_server import MAX_QUEUE, MAX_SEQUENCES, MODEL, Server

if TYPE_CHECKING:
    import openai


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"top_p": 7},
        {"max_tokens": -5},
        {"n": 0},
        {"n": 10**9},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "wizard", "content": "hello"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]},
        {"top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 10**6},
        {"logit_bias": {"paris": 1}},
        {"logit_bias": {"99999999": 1}},
        pytest.param({"stop": [str(number) for number in range(10_000)]}, id="10,000 stops"),
        {"tool_choice": "required"},
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wish"}}}},
        {"response_format": {"type": "yaml"}},
        {"seed": "one"},
        {"stream": "perhaps"},
    ],
    ids=str,
)
def test_a_wrong_request_is_a_bad_request(gpt: "openai.OpenAI", wrong: dict[str, Any]) -> None:
    import openai

    with pytest.raises(openai.BadRequestError) as caught:
        gpt.chat.completions.create(**{"model": MODEL, "messages": CAPITAL, "max_tokens": 4, **wrong})
    body = caught.value.body
    assert isinstance(body, dict) and body["message"] and body["type"] == "invalid_request_error"
    assert {"param", "code"} <= set(body)


def test_a_schema_that_cannot_be_kept_is_refused_by_keyword(gpt: "openai.OpenAI") -> None:
    import openai

    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        gpt.chat.completions.create(model=MODEL, messages=CAPITAL, response_format=wanted)


def test_a_prompt_beyond_the_context_is_refused_by_its_length(gpt: "openai.OpenAI") -> None:
    import openai

    messages = [{"role": "user", "content": "word " * 6000}]
    with pytest.raises(openai.BadRequestError, match="4096|4,096") as caught:
        gpt.chat.completions.create(model=MODEL, messages=messages)
    assert caught.value.code == "context_length_exceeded"
    cut = gpt.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "word " * 6000}, *CAPITAL],
        max_tokens=8,
        extra_body={"overflow": "truncate"},
    )
    assert cut.choices[0].message.content and cut.usage and cut.usage.prompt_tokens < 4096


def test_a_strict_request_names_what_it_does_not_know(gpt: "openai.OpenAI") -> None:
    import openai

    with pytest.raises(openai.BadRequestError, match="wings"):
        gpt.chat.completions.create(
            model=MODEL,
            messages=CAPITAL,
            extra_body={"wings": 2},
            extra_headers={"X-Whimbrel-Strict": "true"},
        )


def test_a_model_that_is_not_there_is_not_found(gpt: "openai.OpenAI") -> None:
    import openai

    with pytest.raises(openai.NotFoundError) as caught:
        gpt.chat.completions.create(model="gpt-17", messages=CAPITAL)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        gpt.models.retrieve("gpt-17")


def test_a_wrong_key_is_refused_everywhere(gpt: "openai.OpenAI") -> None:
    import openai

    stranger = gpt.with_options(api_key="wrong")
    calls = [
        lambda: stranger.chat.completions.create(model=MODEL, messages=CAPITAL),
        lambda: stranger.models.list(),
        lambda: stranger.embeddings.create(model=MODEL, input="x"),
        lambda: stranger.files.list(),
        lambda: stranger.responses.create(model=MODEL, input="x"),
    ]
    for call in calls:
        with pytest.raises(openai.AuthenticationError):
            call()


def test_a_full_queue_is_a_rate_limit(server: Server, gpt: "openai.OpenAI") -> None:
    import openai

    async def crowd() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=server.v1, api_key=server.key, max_retries=0, timeout=120) as client:
            calls = [
                client.chat.completions.create(model=MODEL, messages=LONG, max_tokens=60)
                for _ in range(3 * (MAX_SEQUENCES + MAX_QUEUE))
            ]
            return await asyncio.gather(*calls, return_exceptions=True)

    server.wait_idle()
    results = asyncio.run(crowd())
    refused = [result for result in results if isinstance(result, openai.RateLimitError)]
    answered = [result for result in results if not isinstance(result, BaseException)]
    assert len(refused) + len(answered) == len(results), [repr(result) for result in results]
    assert refused and len(answered) >= MAX_SEQUENCES
    assert all(int(error.response.headers["retry-after"]) >= 1 for error in refused)
    assert all(answer.choices[0].message.content for answer in answered)
    server.wait_idle()


def test_the_async_client_runs_side_by_side(server: Server, gpt: "openai.OpenAI") -> None:
    import openai

    alone = gpt.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0, max_tokens=24)

    async def together() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=server.v1, api_key=server.key, max_retries=0, timeout=120) as client:
            calls = [
                client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0, max_tokens=24)
                for _ in range(6)
            ]
            return await asyncio.gather(*calls)

    answers = asyncio.run(together())
    assert [answer.choices[0].message.content for answer in answers] == [alone.choices[0].message.content] * 6


def test_the_async_client_streams(server: Server) -> None:
    import openai

    async def stream() -> str:
        async with openai.AsyncOpenAI(base_url=server.v1, api_key=server.key, max_retries=0) as client:
            chunks = await client.chat.completions.create(
                model=MODEL,
                messages=CAPITAL,
                temperature=0,
                max_tokens=24,
                stream=True,
            )
            return "".join([choice.delta.content or "" async for chunk in chunks for choice in chunk.choices])

    assert "Paris" in asyncio.run(stream())


def test_a_client_that_runs_out_of_time_frees_its_place(server: Server, gpt: "openai.OpenAI") -> None:
    import openai

    impatient = gpt.with_options(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        impatient.chat.completions.create(model=MODEL, messages=LONG, max_tokens=3000, extra_body={"ignore_eos": True})
    server.wait_idle(5)


def test_a_client_that_leaves_in_the_middle_frees_its_place(server: Server, gpt: "openai.OpenAI") -> None:
    stream = gpt.chat.completions.create(model=MODEL, messages=LONG, max_tokens=3000, stream=True)
    for number, _ in enumerate(stream):
        if number == 5:
            break
    assert server.metric("whimbrel_running") == 1
    stream.close()
    server.wait_idle(5)


def test_a_client_that_leaves_while_its_prompt_is_read_frees_its_place(server: Server, gpt: "openai.OpenAI") -> None:
    import openai

    unique = f"Notes of {time.time()}. "
    messages = [{"role": "user", "content": unique + "The keeper lit the lamp and wrote it down. " * 350}]
    with pytest.raises(openai.APITimeoutError):
        gpt.with_options(timeout=0.3).chat.completions.create(model=MODEL, messages=messages, max_tokens=500)
    server.wait_idle(5)


def test_prompts_are_not_in_the_log(server: Server, gpt: "openai.OpenAI") -> None:
    secret = "marzipan-weathervane"
    gpt.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": f"What is a {secret}?"}], max_tokens=4
    )
    assert server.log and not [line for line in server.log if secret in line]
