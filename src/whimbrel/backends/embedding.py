"""A prompt's vector while the prompt is read: a stream that says nothing, and has an embedding in the end."""

from typing import TYPE_CHECKING

from whimbrel.backends.executor import Request, SamplingParams
from whimbrel.backends.results import Embedding
from whimbrel.backends.stream import Stream
from whimbrel.backends.text import StopStrings
from whimbrel.errors import UnsupportedCapability, UsageError

if TYPE_CHECKING:
    from whimbrel.backends.llm import LLM


class EmbeddingStream(Stream):
    """Its pieces tell how far the prompt has been read."""

    def __init__(self, llm: "LLM", token_ids: tuple[int, ...], pooling: str) -> None:
        """Made by ``LLM.embed_stream``."""
        request = Request(token_ids=token_ids, params=SamplingParams(max_tokens=0), pooling=pooling)
        super().__init__(llm.executor.generate(request), llm.tokenizer, StopStrings(()), token_ids)
        self._backend = llm.capabilities.backend

    @property
    def embedding(self) -> Embedding:
        """The vector, once the stream has ended.

        Raises ``UsageError`` before, and ``UnsupportedCapability`` where the backend has no hidden states.
        """
        if not self.ended or self.broken_off or self._last is None:
            raise UsageError("the prompt isn't read yet; iterate the stream to its end")
        if self._last.embedding is None:
            raise UnsupportedCapability(
                f"the {self._backend} backend gives no hidden states; embed with the native one"
            )
        return Embedding(vector=self._last.embedding, token_ids=self.prompt_token_ids)
