"""A tokenizer with words in it, and models that answer what a test tells them to."""

from collections.abc import Callable, Sequence

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from whimbrel.backends.executor import Request
from whimbrel.backends.llm import LLM
from whimbrel.backends.open import OpenModel
from whimbrel.backends.scripted import ScriptedExecutor
from whimbrel.eval.haystack import Haystack, read_haystack
from whimbrel.eval.prompt import Prompter
from whimbrel.eval.task import Item
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.testing import tiny

Say = Callable[[Request], str]


@pytest.fixture(scope="session")
def haystack() -> Haystack:
    """The shipped one."""
    return read_haystack()


@pytest.fixture(scope="session")
def tokenizer(haystack: Haystack) -> Tokenizer:
    """Byte-level BPE of 2,000 tokens, learnt from a part of the shipped text; a begin token before texts."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=list(tiny.SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([document.text for document in haystack.documents[:150]], trainer)
    return Tokenizer(backend, bos_token_id=1, eos_token_ids=(2,), prefix=[1])


@pytest.fixture(scope="session")
def llm_that(tokenizer: Tokenizer) -> Callable[..., LLM]:
    """``llm_that(says)``: an LLM whose answers are texts, by request."""

    def make(says: Say, *, max_context: int = 8192) -> LLM:
        executor = ScriptedExecutor(
            lambda request: [*tokenizer.encode(says(request), add_special=False), 2],
            max_context=max_context,
            vocab_size=tokenizer.vocab_size,
            eos_token_ids=(2,),
        )
        template = ChatTemplate(tiny.CHAT_TEMPLATE, {})
        return LLM(OpenModel(executor=executor, tokenizer=tokenizer, chat_template=template, generation_config={}))

    return make


@pytest.fixture(scope="session")
def prompter(llm_that: Callable[..., LLM]) -> Prompter:
    """Prompts in that tokenizer, for base models."""
    return Prompter(llm_that(lambda request: ""))


@pytest.fixture(scope="session")
def chat_prompter(llm_that: Callable[..., LLM]) -> Prompter:
    """Prompts in that tokenizer, through a chat template."""
    return Prompter(llm_that(lambda request: ""), chat=True)


@pytest.fixture(scope="session")
def knowing() -> Callable[[Sequence[Item]], Say]:
    """``knowing(items)`` says the expected answers of these items."""

    def make(items: Sequence[Item]) -> Say:
        questions = [item.make() for item in items]
        answers = {question.token_ids: " ".join(question.answers) for question in questions}
        return lambda request: answers[request.token_ids]

    return make
