"""Job: what any dialect asks for, in one neutral form; Answer: what it gets, on the event loop."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from time import time
from typing import TYPE_CHECKING, Any

from whimbrel import __version__
from whimbrel.backends.llm import Prompt
from whimbrel.backends.results import Completion, Piece
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.server.driver import Flow
from whimbrel.server.pool import Resident

if TYPE_CHECKING:
    from whimbrel.backends.document import Document


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A request for one or more answers to one prompt."""

    prompt: Prompt
    """text, ids, or messages as chat templates take them"""
    model: str | None = None
    n: int = 1
    """answers; with a seed, the i-th one has seed + i"""
    options: Mapping[str, Any] = field(default_factory=dict)
    """of ``LLM.stream``: sampling, stop, tools, shape, overflow, template"""
    files: tuple[str, ...] = ()
    """documents, by the id of the files API, that stand before the first user message"""
    passages: int = 0
    """how many passages of the documents come with the answer"""
    shape_field: str = "response_format"
    """where the request has ``options["shape"]``, for what errors say"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """Documents that an answer reads, and how many passages of them it shall show."""

    document: "Document"
    files: tuple[str, ...]
    passages: int

    def described(self, completion: Completion) -> dict[str, Any]:
        """``passages``, and ``heat``: each block's share of the attention, over the first document from its beginning.

        ``heat_counted``: whether passages are chosen from the block, and not attention that rests there whatever is asked.
        """
        if not self.passages:
            return {}
        document = self.document
        ids = dict(zip(document.names, self.files, strict=True))
        map = document.map_of(completion)
        shown = map.with_passages(completion, self.passages).passages
        first, shares = document.names[0], completion.block_mass
        spans = [span for span in document.spans(document.prompt_of(completion)) if span.document == first]
        counted = {span.block for span in map.spans}
        return {
            "passages": [{**asdict(passage), "file_id": ids[passage.document]} for passage in shown],
            "heat": [shares[span.block] if span.block < len(shares) else 0.0 for span in spans],
            "heat_starts": [span.start for span in spans],
            "heat_counted": [span.block in counted for span in spans],
        }


class Answer:
    """One answer: an async iterator of lists of pieces. ``close`` it, whatever happens (``Answers`` does)."""

    def __init__(
        self,
        flow: Flow,
        resident: Resident,
        on_close: Callable[["Answer"], None],
        read: "Read | None" = None,
    ) -> None:
        """Made by ``Service.open``. ``read``: the documents before the prompt."""
        self.flow = flow
        self._read = read
        self.resident = resident
        self.created = int(time())
        self._on_close: Callable[[Answer], None] | None = on_close

    @property
    def model(self) -> str:
        """The model's name."""
        return self.resident.name

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self.resident.llm.tokenizer

    @property
    def fingerprint(self) -> str:
        """What computed it, as OpenAI's ``system_fingerprint``."""
        return f"whimbrel-{__version__}-{self.resident.llm.capabilities.implementation}"

    def read(self, completion: Completion) -> dict[str, Any]:
        """What the answer read of its documents, for the end of a choice; {} where nobody asked."""
        return {} if self._read is None else self._read.described(completion)

    def __aiter__(self) -> AsyncIterator[list[Piece]]:
        return aiter(self.flow)

    @property
    def result(self) -> Completion:
        """The answer, once the iteration has ended."""
        return self.flow.result

    def close(self) -> None:
        """Stop it if it runs still, and let the model go. Idempotent."""
        if self._on_close is not None:
            self.flow.cancel()
            on_close, self._on_close = self._on_close, None
            on_close(self)
