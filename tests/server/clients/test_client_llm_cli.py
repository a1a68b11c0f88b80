"""The `llm` command line, as its users set it up: a file of models, a stored key, prompts, streams, conversations."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from client_support import BIRD_SCHEMA, is_bird
from running_server import MODEL, Server

Llm = Callable[..., str]


@pytest.fixture(scope="module")
def llm(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Llm:
    """Runs `llm` with a folder of its own, where our models stand in extra-openai-models.yaml."""
    folder = tmp_path_factory.mktemp("llm")
    common = {"model_name": MODEL, "api_base": server.v1, "api_key_name": "whimbrel"}
    models = [
        {"model_id": "shore", "aliases": ["s"], "supports_schema": True, "supports_tools": True, **common},
        {"model_id": "shore-text", "completion": True, **common},
        {"model_id": "shore-responses", "responses": True, "supports_schema": True, **common},
    ]
    (folder / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML
    (folder / "keys.json").write_text(json.dumps({"whimbrel": server.key}))

    def run(*words: str, given: str = "", status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llm", *words],
            check=False,
            env={**os.environ, "LLM_USER_PATH": str(folder)},
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stderr
        return done.stdout.strip() if status == 0 else done.stderr

    return run


def test_a_prompt_is_answered_whole_and_streamed(llm: Llm) -> None:
    options = ["-m", "shore", "-o", "temperature", "0", "-o", "max_tokens", "32"]
    streamed = llm(*options, "Name the capital of France.")
    assert "Paris" in streamed
    assert llm(*options, "--no-stream", "Name the capital of France.") == streamed


def test_standard_input_and_a_system_text(llm: Llm) -> None:
    said = llm("-m", "s", "-s", "You are a pirate.", "-o", "max_tokens", "24", given="Who are you?")
    assert said


def test_a_conversation_goes_on_and_is_logged(llm: Llm) -> None:
    llm("-m", "shore", "-o", "max_tokens", "32", "Name the capital of France.")
    assert llm("-c", "-o", "max_tokens", "32", "And of Italy?")
    entries = json.loads(llm("logs", "list", "--json", "-n", "2"))
    assert len({entry["conversation_id"] for entry in entries}) == 1
    assert all(entry["input_tokens"] > 5 and entry["output_tokens"] > 0 for entry in entries), "no usage in a stream"
    assert max(entry["input_tokens"] for entry in entries) > 40, "the second turn didn't hold the first"


@pytest.mark.parametrize("model", ["shore", "shore-responses"])
def test_a_schema_is_kept(llm: Llm, model: str) -> None:
    assert is_bird(llm("-m", model, "--schema", json.dumps(BIRD_SCHEMA), "Describe a whimbrel."))


def test_a_text_is_continued(llm: Llm) -> None:
    assert "Paris" in llm(
        "-m", "shore-text", "-o", "temperature", "0", "-o", "max_tokens", "12", "The capital of France is"
    )


def test_responses_are_spoken_too(llm: Llm) -> None:
    assert "Paris" in llm("-m", "shore-responses", "-o", "temperature", "0", "Name the capital of France.")


def test_tools_can_be_offered(llm: Llm) -> None:
    assert llm("-m", "shore", "-T", "llm_version", "-o", "max_tokens", "40", "--chain-limit", "2", "Hello!") is not None


def test_an_endpoint_without_a_file_of_models(llm: Llm, server: Server) -> None:
    endpoint = ["openai", "endpoint", server.v1, "--key", server.key]
    assert MODEL in llm(*endpoint, "--models").split()
    said = llm(
        *endpoint, "-m", MODEL, "-o", "temperature", "0", "-o", "max_tokens", "32", "Name the capital of France."
    )
    assert "Paris" in said


def test_an_error_is_shown(llm: Llm, server: Server) -> None:
    said = llm("openai", "endpoint", server.v1, "--key", server.key, "-m", "gpt-17", "Hello", status=1)
    assert "gpt-17" in said
