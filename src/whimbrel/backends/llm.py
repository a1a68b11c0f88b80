"""LLM: text in, text out, over any ``Executor``.

>>> with LLM("model.gguf") as llm:                                      # doctest: +SKIP
...     for piece in llm.stream([{"role": "user", "content": "Hello"}], max_tokens=64):
...         print(piece.text, end="")

A text is continued as it stands; a list of messages goes through the model's chat template. Options that aren't given
are those of the model's own generation config, or else the defaults of ``SamplingParams`` (greedy).

Answers to messages are parted: what a model thinks between its template's tags, what it says, which tools it calls. Tools
are shown to the model as its template does it, or in the system message where that knows none (``tool_notice`` says so).
"""

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from whimbrel.backends.chat import Chat
from whimbrel.backends.dialect import Dialect, Tools
from whimbrel.backends.executor import Capabilities, Executor, FinishReason, Request, SamplingParams
from whimbrel.backends.open import OpenModel, open_model
from whimbrel.backends.results import Completion, Embedding, Score
from whimbrel.backends.stream import Stream
from whimbrel.backends.text import StopStrings
from whimbrel.backends.written import Written
from whimbrel.errors import InvalidParameter, MissingExtra, ModelNotFound, UnsupportedCapability, UsageError
from whimbrel.models.answer import AnswerReader
from whimbrel.models.chat import ChatTemplate, Message
from whimbrel.models.reasoning import Thinking
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.models.tool_calls.parse import CallParser
from whimbrel.models.tool_calls.plan import ToolPlan

if TYPE_CHECKING:
    from whimbrel.backends.document import Document
    from whimbrel.backends.embedding import EmbeddingStream
    from whimbrel.backends.reading import Reading
    from whimbrel.backends.shape import Shape
    from whimbrel.engine.constrain import Grammar

log = logging.getLogger(__name__)

Prompt = str | Sequence[int] | Sequence[Message]
"""Text, token ids, or messages"""

OVERFLOWS = ("error", "truncate")


class LLM:
    """A loaded model that speaks text. A context manager; ``close`` frees the memory."""

    resolve: ClassVar[Callable[[str], Path] | None] = None
    """turns a name into a local path; ``whimbrel.LLM`` is this class with the model store's"""

    def __init__(self, model: str | Path | OpenModel, *, overflow: str = "error", **options: Any) -> None:
        """``model``: a local path, a name that ``resolve`` knows, or a model opened before.

        ``options`` are those of ``backends.open.open_model``: context, attention, kv_dtype, threads, weights, ...
        ``overflow``: "error" refuses a prompt that is longer than the context; "truncate" leaves the oldest messages
        of a conversation out, or cuts tokens off the beginning of a text (after BOS), and says how many tokens that
        were in ``usage.truncated_tokens``.
        Raises what ``open_model`` does; ``InvalidParameter`` for an unknown option.
        """
        _check_overflow(overflow)
        opened = model if isinstance(model, OpenModel) else self._open(model, options)
        self.executor: Executor = opened.executor
        self.tokenizer: Tokenizer = opened.tokenizer
        self._dialect = Dialect(opened.chat_template, opened.tokenizer)
        self.config = opened.config
        self.source = opened.source
        self.name: str | None = model if isinstance(model, str) else None
        """what the model was asked for by, if that was a name"""
        self.weights: str | None = options.get("weights")
        """what they were converted to while loading; None: as they are stored"""
        self._trained_context = opened.trained_context
        self._overflow = overflow
        self._defaults = _defaults(opened.generation_config)
        self._stop_ids = _stop_ids(opened)
        self._written = Written()

    # --- text

    def stream(
        self,
        prompt: Prompt,
        *,
        stop: str | Sequence[str] = (),
        overflow: str | None = None,
        template: Mapping[str, Any] | None = None,
        shape: "Shape | None" = None,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str = "auto",
        parallel_tool_calls: bool = True,
        document: "Document | None" = None,
        **sampling: Any,
    ) -> Stream:
        """An answer piece by piece; ``stream.result`` has all of it in the end.

        ``stop``: texts that end what is said, and are not part of it. ``template``: variables for the chat template
        (``{"enable_thinking": False}``). ``shape``: what the answer must look like (``backends.shape``), from its first
        character to its last; thinking comes before it where the model thinks.
        ``tools``: what the model may ask to be done (see ``Tools``). ``tool_choice``: "auto" lets it call or answer,
        "required" makes it call, a tool's name that one, once; "none" shows it the tools and lets it call none.
        ``parallel_tool_calls=False``: at most one call. Calls that must come, and calls of tools with ``strict``, are held
        to the schemas of their arguments; others where llguidance is installed and can do it. ``shape`` beside tools is
        that of an answer without calls.
        ``document``: what was read before and stands before the conversation (``Document.rendered``).
        ``sampling``: fields of ``SamplingParams``. The work is done while the stream is iterated; leaving it early
        (``close``, or the end of a ``with``) frees its memory.
        Raises ``UsageError`` (empty prompt, no chat template, tools beside a text), ``InvalidParameter`` (a schema that
        can't be enforced), ``PromptTooLong``, ``UnsupportedCapability`` and ``MissingExtra`` where nothing can hold the
        answer to what was asked.
        """
        plan = self._dialect.plan(tools, tool_choice, parallel=parallel_tool_calls)
        if not _are_messages(prompt):
            if plan is not None:
                raise UsageError("tools belong to a conversation; give messages instead of a text")
            if document is not None:
                raise UsageError("a document belongs to a conversation; give messages instead of a text")
            return self.stream_ids(self.prompt_ids(prompt), stop=stop, overflow=overflow, shape=shape, **sampling)
        messages, cut = cast(Sequence[Message], prompt), 0
        if self.cuts(overflow):
            messages, cut = self.fit_messages(messages, template, tools, document, **sampling)
        text, ids = self._conversation(messages, template, tools, document)
        stream = self._open_stream(
            ids, stop=stop, overflow="error", truncated=cut, shape=shape, conversation=True, plan=plan, **sampling
        )
        stream.on_end = lambda completion: self._remember(text, completion)
        return stream

    def generate(self, prompt: Prompt, **options: Any) -> Completion:
        """The whole answer at once; options as for ``stream``."""
        return self.stream(prompt, **options).drain()

    def generate_many(self, prompts: Iterable[Prompt], **options: Any) -> list[Completion]:
        """Answers to several prompts, written side by side as far as the backend's ``max_sequences`` allow."""
        streams = [self.stream(prompt, **options) for prompt in prompts]
        return [stream.drain() for stream in streams]

    def chat(self, messages: str | Sequence[Message], **options: Any) -> Completion:
        """The answer to a conversation, or to one user message given as text; options as for ``stream``."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self.generate(messages, **options)

    def session(self, *, system: str | None = None, template: Mapping[str, Any] | None = None) -> Chat:
        """A conversation that keeps its history as token ids, so that each turn reads only what is new."""
        return Chat(self, system=system, template=template)

    def session_from(self, path: str | Path) -> Chat:
        """A conversation that ``Chat.save_to`` saved, to go on with. Raises as ``Chat.load_from``."""
        chat = Chat(self)
        chat.load_from(path)
        return chat

    def score(self, text: str | Sequence[int]) -> Score:
        """Log-probability of each token of a text (or of ids) given those before it.

        Raises ``UsageError`` for fewer than two tokens, ``PromptTooLong`` beyond the context.
        """
        ids = self.tokenize(text) if isinstance(text, str) else [int(id) for id in text]
        if len(ids) < 2:
            raise UsageError(f"a text of {len(ids)} tokens has nothing to score; give at least two tokens")
        return Score(token_ids=tuple(ids), logprobs=tuple(self.executor.score(ids)))

    def embed(self, text: str | Sequence[int], *, pooling: str = "mean") -> Embedding:
        """A text (or ids) as a vector: its hidden states after the final norm, their mean or the last one.

        Raises ``InvalidParameter`` for another pooling, ``UsageError`` for an empty text, ``PromptTooLong``, and
        ``UnsupportedCapability`` where the backend has no hidden states.
        """
        with self.embed_stream(text, pooling=pooling) as stream:
            stream.drain()
            return stream.embedding

    def embed_stream(self, text: str | Sequence[int], *, pooling: str = "mean") -> "EmbeddingStream":
        """``embed`` while the text is read: its pieces tell how far, ``embedding`` is there in the end."""
        from whimbrel.backends.embedding import EmbeddingStream

        ids = tuple(self.tokenize(text) if isinstance(text, str) else (int(id) for id in text))
        return EmbeddingStream(self, ids, pooling)

    # --- documents

    def read_document(
        self,
        path: str | Path,
        out: str | Path | None = None,
        *,
        system: str | None = None,
        data: bytes | None = None,
        progress: Callable[[int, int], None] | None = None,
        announce: Callable[[int, int], None] | None = None,
    ) -> "Reading":
        """Read a document once, into a file that ``open_document`` maps; ``out`` is the document's name with ``.kv``.

        ``system``: a system message before it, part of what is read. ``data``: the document's bytes, where ``path`` is
        only a name. ``progress`` is called with tokens read and in all, ``announce`` once with the bytes that the disk
        has to take and has free. An interrupted reading is gone on with.
        Raises ``UsageError``, ``FormatError`` (no text), ``PromptTooLong``, ``WriteError`` (disk full),
        ``UnsupportedCapability``.
        """
        from whimbrel.backends.reading import read_document

        return read_document(self, path, out, system=system, data=data, progress=progress, announce=announce)

    def open_document(self, path: str | Path, *others: str | Path, stale: bool = False) -> "Document":
        """A document that was read before, or several, to be asked without reading them again.

        ``stale``: also where the document has changed since. Raises ``FormatError`` for a damaged, foreign or half
        written file, ``UsageError`` for another model's, other settings or a changed document, ``PromptTooLong``.
        """
        from whimbrel.backends.document import open_document

        return open_document(self, [path, *others], stale=stale)

    @staticmethod
    def document_settings(path: str | Path, *others: str | Path) -> dict[str, Any]:
        """The options under which documents were read, for ``LLM(model, **options)``: a cache for a question alone.

        Raises ``FormatError`` and ``UsageError`` as ``open_document`` does.
        """
        from whimbrel.backends.document import settings_for

        return settings_for([path, *others])

    # --- tokens

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of a text; see ``Tokenizer.encode``."""
        return self.tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, token_ids: Iterable[int]) -> str:
        """Text of ids, control tokens by their names."""
        return self.tokenizer.decode(token_ids)

    def render(self, messages: Sequence[Message], template: Mapping[str, Any] | None = None, tools: Tools = ()) -> str:
        """The conversation as the model reads it, up to where its answer begins.

        Calls in messages may have their arguments as JSON text or as mappings. Raises ``UsageError`` for messages that
        the template refuses or that can't be understood, ``InvalidParameter`` for tools.
        """
        return self._dialect.render(messages, template or {}, tools)

    def prompt_ids(
        self,
        prompt: Prompt,
        template: Mapping[str, Any] | None = None,
        tools: Tools = (),
        document: "Document | None" = None,
    ) -> list[int]:
        """The ids of a prompt. ``document``: what stands before a conversation.

        Raises ``UsageError`` if it is empty, and as ``render`` does.
        """
        if isinstance(prompt, str):
            if not prompt:
                raise UsageError("the prompt is empty; give some text to go on from")
            return self.tokenize(prompt)
        if len(prompt) == 0:
            raise UsageError("the prompt is empty; give a text, token ids or messages")
        if _are_messages(prompt):
            return self._conversation(cast(Sequence[Message], prompt), template, tools, document)[1]
        if isinstance(prompt[0], str):
            raise UsageError("a list of texts is several prompts; use generate_many")
        return [int(id) for id in cast(Sequence[int], prompt)]

    def fit_messages(
        self,
        messages: Sequence[Message],
        template: Mapping[str, Any] | None = None,
        tools: Tools = (),
        document: "Document | None" = None,
        **sampling: Any,
    ) -> tuple[list[Message], int]:
        """The conversation without its oldest messages, as far as needed, and how many tokens that saves.

        The system message, the document and the last message stay; what stays begins with a user's message.
        """
        kept, room = list(messages), self._room(self.sampling_params(**sampling))
        first = 1 if kept and kept[0].get("role") == "system" else 0
        whole = length = len(self.prompt_ids(kept, template, tools, document))
        while length > room and len(kept) > first + 1:
            del kept[first]
            while len(kept) > first + 1 and kept[first].get("role") != "user":
                del kept[first]
            length = len(self.prompt_ids(kept, template, tools, document))
        if length < whole:
            log.warning("%d messages (%d tokens) were left out", len(messages) - len(kept), whole - length)
        return kept, whole - length

    def stream_ids(
        self,
        ids: Sequence[int],
        *,
        stop: str | Sequence[str] = (),
        overflow: str | None = None,
        truncated: int = 0,
        shape: "Shape | None" = None,
        conversation: bool = False,
        **sampling: Any,
    ) -> Stream:
        """``stream`` for a prompt of token ids. ``truncated``: tokens that were left out of it before.

        ``conversation``: the ids are a conversation's, up to where the model's answer begins, so that what it thinks is
        parted from what it says.
        """
        return self._open_stream(
            ids, stop=stop, overflow=overflow, truncated=truncated, shape=shape, conversation=conversation, **sampling
        )

    def grammar(self, shape: "Shape") -> "Grammar":
        """A shape compiled for this model, for ``Request.grammar``; kept for the next time.

        Raises ``InvalidParameter`` for what can't be enforced, ``UnsupportedCapability`` for a backend that enforces
        nothing, ``MissingExtra`` without llguidance.
        """
        grammar = self._grammar(shape, Thinking(), None)
        assert grammar is not None
        return grammar

    def sampling_params(self, **sampling: Any) -> SamplingParams:
        """What was asked, over the model's own defaults. Raises ``InvalidParameter``."""
        params = SamplingParams.of({**self._defaults, **sampling})
        if params.ignore_eos:
            return params
        return replace(params, stop_token_ids=tuple({*params.stop_token_ids, *self._stop_ids}))

    # --- the model

    @property
    def tool_format(self) -> str | None:
        """How this model writes tool calls ("hermes", "llama", ..., "generic"); None without a chat template."""
        return None if self.chat_template is None else self._dialect.tools.format.name

    @property
    def tool_notice(self) -> str:
        """What makes its calls worse than they could be; "" where nothing does."""
        return "" if self.chat_template is None else self._dialect.tools.notice

    @property
    def thinks(self) -> bool:
        """True if its chat template has tags for what it thinks before it answers."""
        return bool(self._dialect.tags)

    @property
    def chat_template(self) -> ChatTemplate | None:
        """None for a model that goes on with texts but answers no messages; another one can be set."""
        return self._dialect.template

    @chat_template.setter
    def chat_template(self, template: ChatTemplate | None) -> None:
        self._dialect = Dialect(template, self.tokenizer)

    @property
    def capabilities(self) -> Capabilities:
        """What the backend offers."""
        return self.executor.capabilities

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.executor.capabilities.max_context

    @property
    def trained_context(self) -> int:
        """Tokens up to which answers don't suffer: trained, or with frequencies that the model's authors publish."""
        return self.context if self._trained_context is None else self._trained_context

    def close(self) -> None:
        """Free weights and cache. Idempotent."""
        self.executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside

    def _open(self, model: str | Path, options: Mapping[str, Any]) -> OpenModel:
        resolve = type(self).resolve
        path = resolve(model) if isinstance(model, str) and resolve is not None else Path(model)
        if not path.exists():
            raise ModelNotFound(f"there is no model at {path}; give the path of a .gguf file or a checkpoint folder")
        known = inspect.signature(open_model).parameters
        for name in options:
            if name not in known:
                raise InvalidParameter(f"LLM has no option {name!r}; there are overflow, {', '.join(list(known)[1:])}")
        return open_model(path, **options)

    def cuts(self, overflow: str | None) -> bool:
        """True if a prompt that is too long shall be cut: by this choice, or (None) by the model's own."""
        overflow = self._overflow if overflow is None else overflow
        _check_overflow(overflow)
        return overflow == "truncate"

    def _room(self, params: SamplingParams) -> int:
        """Tokens that a prompt may have where it may be cut: an answer of unknown length gets a quarter of the context."""
        return self.context - (self.context // 4 if params.max_tokens is None else params.max_tokens)

    def _fit(self, ids: Sequence[int], params: SamplingParams) -> list[int]:
        """The end of the prompt, after BOS, as far as there is room."""
        room = self._room(params)
        if len(ids) <= room or room < 2:
            return list(ids)
        head = list(ids[:1]) if ids[0] == self.tokenizer.bos_token_id else []
        log.warning("%d of %d prompt tokens were cut off", len(ids) - room, len(ids))
        return head + list(ids[len(ids) - room + len(head) :])

    def _open_stream(
        self,
        ids: Sequence[int],
        *,
        stop: str | Sequence[str],
        overflow: str | None,
        truncated: int,
        shape: "Shape | None",
        conversation: bool,
        plan: ToolPlan | None = None,
        **sampling: Any,
    ) -> Stream:
        params = self.sampling_params(**sampling)
        stops = StopStrings([stop] if isinstance(stop, str) else stop)
        kept = self._fit(ids, params) if self.cuts(overflow) else list(ids)
        thinking = self._dialect.thinking(kept) if conversation else Thinking()
        calls = CallParser(plan.format, plan.callable) if plan is not None and plan.callable else None
        grammar = self._grammar(shape, thinking, plan)
        steps = self.executor.generate(Request(token_ids=tuple(kept), params=params, grammar=grammar))
        cut = truncated + len(ids) - len(kept)
        reader = AnswerReader(thinking, calls)
        return Stream(steps, self.tokenizer, stops, tuple(kept), truncated=cut, reader=reader)

    def _grammar(self, shape: "Shape | None", thinking: Thinking, plan: ToolPlan | None) -> "Grammar | None":
        """What holds the answer to what was asked; None if nothing has to, or (calls that needn't fit) nothing can."""
        if shape is None and plan is None:
            return None
        promised = shape is not None or (plan is not None and plan.binding)
        if not self.capabilities.constraints:
            if promised:
                raise UnsupportedCapability(
                    f"the backend {self.capabilities.backend!r} can't hold an answer to a shape or a schema; the native "
                    "one can"
                )
            return None
        from whimbrel.backends.answer_grammar import answer_grammar

        ends = self.tokenizer.eos_token_ids
        ends = (*ends, *sorted(self._stop_ids.difference(ends)))
        try:
            return answer_grammar(shape, thinking, plan, self.tokenizer, ends)
        except (InvalidParameter, MissingExtra) as error:
            if promised:
                raise
            log.warning("calls of tools aren't held to their schemas: %s", error)
            return None

    # --- inside: conversations

    def _conversation(
        self,
        messages: Sequence[Message],
        template: Mapping[str, Any] | None,
        tools: Tools,
        document: "Document | None" = None,
    ) -> tuple[str, list[int]]:
        """A conversation as text and ids. Parts that this model has written keep the ids that it wrote."""
        render = self.render if document is None else document.rendered
        text = render(messages, template, tools)
        written = self._written.as_written(messages)
        if written is not None:
            other = render(written, template, tools)
            known, _ = self._written.known(other)
            if known and text.endswith(other[len(known) :]):  # what is new is what the template makes of it
                text = other
        return text, self._conversation_ids(text, document)

    def _conversation_ids(self, text: str, document: "Document | None" = None) -> list[int]:
        """Ids of a rendered conversation. A part that this model has written keeps the ids that it wrote."""
        known, ids = self._written.known(text)
        if known:
            rest = self.continuation_ids(text[len(known) :])
            if rest is not None:
                return [*ids, *rest]
        if document is not None:
            return document.ids_of(text)
        return self.tokenize(text, add_special=False, parse_special=True)

    def continuation_ids(self, text: str) -> list[int] | None:
        """Ids of a piece of a rendered conversation that follows other ids.

        None if the tokenizer can't express it by itself (some put a space before every text).
        """
        ids = self.tokenize(text, add_special=False, parse_special=True)
        exact = b"".join(map(self.tokenizer.token_bytes, ids)) == text.encode()
        return ids if exact else None

    def answer_ids(self, completion: Completion) -> tuple[int, ...]:
        """The ids that a completion wrote, without the one that ended it."""
        ids = completion.token_ids
        ended = completion.finish_reason == FinishReason.STOP and completion.stop is None
        return ids[:-1] if ended else ids

    def _remember(self, prompt: str, completion: Completion) -> None:
        """Keep the ids of a conversation, so that its next turn is not tokenized in another way than it was written."""
        answer = self.answer_ids(completion)
        if completion.usage.truncated_tokens or not answer or completion.stop is not None:
            return
        raw = b"".join(map(self.tokenizer.token_bytes, answer)).decode("utf-8", "replace")
        self._written.remember(prompt + raw, (*completion.prompt_token_ids, *answer))
        if completion.tool_calls:
            calls = [(call.name, call.arguments) for call in completion.tool_calls]
            self._written.remember_calls(completion.tool_calls[0].id, raw, completion.text, calls)


def _are_messages(prompt: Prompt) -> bool:
    return not isinstance(prompt, str) and len(prompt) > 0 and isinstance(prompt[0], Mapping)


def _check_overflow(overflow: str) -> None:
    if overflow not in OVERFLOWS:
        raise InvalidParameter(f"overflow={overflow!r} is unknown; there are {', '.join(OVERFLOWS)}")


def _stop_ids(model: OpenModel) -> frozenset[int]:
    """Everything that the checkpoint names as an end: tokenizer, generation config, config."""
    named = model.generation_config.get("eos_token_id") or ()
    ids = {named} if isinstance(named, int) else set(named)
    return frozenset(ids | set(model.tokenizer.eos_token_ids))


def _defaults(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own sampling options; greedy if it says ``do_sample: false`` or nothing about sampling."""
    names = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
    given = {name: generation_config[name] for name in names if generation_config.get(name) is not None}
    if not generation_config.get("do_sample", "temperature" in given):
        return {name: given[name] for name in ("repetition_penalty",) if name in given}
    return {"temperature": 1.0, **given}
