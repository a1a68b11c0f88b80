"""LangChain's classes for OpenAI: chat models, texts, embeddings."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from client_support import BIRD_SCHEMA, Bird, is_bird
from pydantic import BaseModel, Field
from running_server import MODEL, Server

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

CAPITAL = "Name the capital of France."


class Weather(BaseModel):
    """The weather in a city."""

    city: str = Field(max_length=20)


@pytest.fixture(scope="module")
def chat(server: Server) -> "ChatOpenAI":
    """A chat model at our address; the SDK below it doesn't try again."""
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model=MODEL, base_url=server.v1, api_key=server.key, temperature=0, max_tokens=150, max_retries=0, timeout=120
    )


def test_invoke(chat: "ChatOpenAI") -> None:
    answer = chat.invoke(CAPITAL)
    assert "Paris" in answer.text and answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata and answer.usage_metadata["input_tokens"] > 5


def test_messages_with_roles(chat: "ChatOpenAI") -> None:
    said = chat.invoke([("system", "You are a pirate."), ("human", "Who are you?")]).text
    assert said and said != chat.invoke("Who are you?").text


def test_stream(chat: "ChatOpenAI") -> None:
    chunks = list(chat.stream(CAPITAL, stream_usage=True))
    assert "".join(chunk.text for chunk in chunks) == chat.invoke(CAPITAL).text and len(chunks) > 1
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert whole.usage_metadata and whole.usage_metadata["output_tokens"] > 3


def test_batch_and_async(chat: "ChatOpenAI") -> None:
    alone = chat.invoke(CAPITAL).text
    assert [answer.text for answer in chat.batch([CAPITAL] * 4)] == [alone] * 4
    assert asyncio.run(chat.ainvoke(CAPITAL)).text == alone


def test_logprobs_stop_and_seed(chat: "ChatOpenAI") -> None:
    scored = chat.bind(logprobs=True, top_logprobs=2).invoke(CAPITAL)
    assert len(scored.response_metadata["logprobs"]["content"][0]["top_logprobs"]) == 2
    assert "Paris" not in chat.bind(stop=["Paris"]).invoke(CAPITAL).text
    seeded = chat.bind(seed=7, temperature=1.2, max_tokens=12)
    assert seeded.invoke(CAPITAL).text == seeded.invoke(CAPITAL).text


@pytest.mark.parametrize("choice", ["any", "Weather"])
def test_bound_tools_are_called(chat: "ChatOpenAI", choice: str) -> None:
    answer: Any = chat.bind_tools([Weather], tool_choice=choice, strict=True).invoke("The weather in Oslo?")
    assert answer.tool_calls and not answer.invalid_tool_calls
    assert all(call["name"] == "Weather" and set(call["args"]) == {"city"} for call in answer.tool_calls)


def test_tool_calls_stream(chat: "ChatOpenAI") -> None:
    bound = chat.bind_tools([Weather], tool_choice="any", parallel_tool_calls=False)
    chunks: Any = list(bound.stream("The weather in Oslo?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    (call,) = whole.tool_calls
    assert call["name"] == "Weather" and isinstance(call["args"]["city"], str)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat: "ChatOpenAI", method: Any) -> None:
    assert isinstance(chat.with_structured_output(Weather, method=method).invoke("The weather in Oslo?"), Weather)


def test_structured_output_from_a_schema(chat: "ChatOpenAI") -> None:
    schema = {"title": "bird", "description": "a bird", **BIRD_SCHEMA}
    found = chat.with_structured_output(schema, method="json_schema", strict=True).invoke("A whimbrel.")
    assert is_bird(json.dumps(found)) and Bird.model_validate(found)


def test_the_responses_interface(chat: "ChatOpenAI") -> None:
    assert "Paris" in chat.model_copy(update={"use_responses_api": True}).invoke(CAPITAL).text


def test_texts(server: Server) -> None:
    from langchain_openai import OpenAI

    text = OpenAI(model=MODEL, base_url=server.v1, api_key=server.key, temperature=0, max_tokens=12, max_retries=0)
    said = text.invoke("The capital of France is")
    assert "Paris" in said and "".join(text.stream("The capital of France is")) == said
    assert text.batch(["The capital of France is"] * 2) == [said] * 2


def test_embeddings(server: Server) -> None:
    """``check_embedding_ctx_length=False`` sends texts; LangChain's default counts with OpenAI's own tokenizer."""
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        model=MODEL, base_url=server.v1, api_key=server.key, check_embedding_ctx_length=False, max_retries=0
    )
    gull, tax = embeddings.embed_documents(["A gull flies over the sea.", "Tax returns are due in April."])
    seagull = embeddings.embed_query("A seagull is flying above the ocean.")
    assert len(gull) == 576 and _dot(gull, seagull) > _dot(gull, tax)


def test_errors_are_the_sdks(chat: "ChatOpenAI") -> None:
    import openai

    with pytest.raises(openai.NotFoundError):
        chat.model_copy(update={"model_name": "gpt-17"}).invoke(CAPITAL)
    with pytest.raises(openai.BadRequestError):
        chat.bind(temperature=-1).invoke(CAPITAL)


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
