"""Clients as their users make them: an address, a key, nothing else."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from running_server import Server

if TYPE_CHECKING:
    import anthropic
    import ollama
    import openai


@pytest.fixture(scope="session")
def gpt(server: Server) -> Iterator["openai.OpenAI"]:
    """OpenAI's SDK; a failed call isn't tried again, so that nothing is papered over."""
    import openai

    with openai.OpenAI(base_url=server.v1, api_key=server.key, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def claude(server: Server) -> Iterator["anthropic.Anthropic"]:
    """Anthropic's SDK."""
    import anthropic

    with anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def llama(server: Server) -> "ollama.Client":
    """Ollama's client."""
    import ollama

    return ollama.Client(host=server.url, headers={"Authorization": f"Bearer {server.key}"}, timeout=120)
