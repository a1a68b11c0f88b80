"""Models that the tests of the text level share."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from whimbrel.backends.llm import LLM
from whimbrel.backends.open import OpenModel
from whimbrel.backends.scripted import ScriptedExecutor
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.loading import load_text_side
from whimbrel.testing import tiny


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama folder."""
    return tiny.write_checkpoint(tmp_path_factory.mktemp("tiny") / "llama", "llama")


@pytest.fixture(scope="session")
def llm(checkpoint: Path) -> Iterator[LLM]:
    """The tiny model on the reference ops."""
    with LLM(checkpoint, ops="reference", context=512, kv_dtype="f32") as model:
        yield model


@pytest.fixture
def scripted(checkpoint: Path) -> Callable[..., LLM]:
    """An LLM that says given texts, one token per character, each ended by ``</s>``."""
    side = load_text_side(checkpoint)

    def make(*answers: str, template: str = tiny.CHAT_TEMPLATE, max_context: int = 4096) -> LLM:
        tokenizer = side.tokenizer
        ids: list[Sequence[int]] = [
            [*(id for character in answer for id in tokenizer.encode(character, add_special=False)), 2]
            for answer in answers
        ]
        executor = ScriptedExecutor(ids, max_context=max_context, eos_token_ids=tokenizer.eos_token_ids)
        return LLM(
            OpenModel(
                executor=executor,
                tokenizer=tokenizer,
                chat_template=ChatTemplate(template, {}),
                generation_config={},
            )
        )

    return make
