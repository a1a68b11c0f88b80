"""One answer on the terminal: a bar while the prompt is read, text as it comes, and one last line with the speeds."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from whimbrel.cli import terminal
from whimbrel.errors import UsageError

if TYPE_CHECKING:
    from whimbrel.backends.llm import LLM
    from whimbrel.backends.results import Completion, Piece
    from whimbrel.backends.stream import Stream

ANSWER_TOKENS = 1024
"""Longest answer where nobody said ``--max-tokens``; less where the context has less room. The last line says so."""

_SHOW_READING_FROM = 512
"""Shorter prompts are read before a bar could be seen."""


def open_model(**flags: Any) -> "LLM":
    """Find and load the model of the flags model, context, threads, weights ... (None: see ``cli.settings``).

    Raises ModelNotFound, FormatError, UnsupportedModel, DoesNotFit or InvalidParameter.
    """
    from whimbrel.backends.llm import LLM
    from whimbrel.cli.settings import filled
    from whimbrel.zoo.plan import refuse_too_large
    from whimbrel.zoo.store import resolve

    options = filled(flags)
    if flags.get("attention") == "dense" and flags.get("sparse") is None:
        options.pop("sparse", None)  # constants of a settings file, which the flag overrides
    name = options.pop("model", None)
    path = resolve(name)
    refuse_too_large(path, options.get("weights"))
    llm = LLM(path, **options)
    llm.name = name
    return llm


def sampling_options(**flags: Any) -> dict[str, Any]:
    """The options of an answer that somebody set; the model's own generation config fills in the rest."""
    from whimbrel.cli.settings import filled

    return filled(flags)


def checked_text(text: str, what: str) -> str:
    """``text`` if a model can read it. Raises UsageError where it is empty or no valid Unicode."""
    if not text.strip():
        raise UsageError(f"{what} is empty; write something")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not valid UTF-8 at character {error.start}; check its encoding") from None
    return text


def answer_tokens(llm: "LLM", prompt_tokens: int, asked: int | None) -> int:
    """``--max-tokens``, or the default where the context has room for it."""
    return asked if asked is not None else max(1, min(ANSWER_TOKENS, llm.context - prompt_tokens))


def show_stream(stream: "Stream", prompt_tokens: int, *, quiet: bool = False) -> "Completion":
    """Run a stream to its end, writing text as it comes; Ctrl-C stops it and is raised again when all is tidy.

    What the model thinks goes to standard error.
    """
    try:
        thinking = _write(_read_prompt(stream, prompt_tokens), quiet)
        for piece in stream:
            thinking = _write(piece, quiet, thinking=thinking)
    finally:
        stream.close()
        if not quiet:
            terminal.write("\n")
    return stream.result


def _read_prompt(stream: "Stream", prompt_tokens: int) -> "Piece | None":
    """Show progress until the first token is written; returns the piece that has it."""
    if prompt_tokens < _SHOW_READING_FROM:
        return next(stream)
    with terminal.progress("tokens") as progress:
        progress("reading", 0, prompt_tokens)
        for piece in stream:
            progress("reading", piece.processed, prompt_tokens)
            if piece.token_ids or piece.finish_reason:
                return piece
    return None


def _write(piece: "Piece | None", quiet: bool, *, thinking: bool = False) -> bool:
    """Show a piece; True if the model thinks, so that what it says begins on a line of its own."""
    if piece is None or quiet:
        return False
    terminal.aside(piece.reasoning)
    thinking = thinking or bool(piece.reasoning)
    if piece.text:
        terminal.aside("\n\n" if thinking else "")
        terminal.write(piece.text)
    return thinking and not piece.text


def last_line(completion: "Completion") -> str:
    """Tokens read, tokens written, both speeds, and why it ended if not by itself."""
    usage, timings = completion.usage, completion.timings
    cached = f" ({usage.cached_tokens:,} from the cache)" if usage.cached_tokens else ""
    read, write = completion.prefill_rate, completion.decode_rate
    line = f"read {usage.prompt_tokens:,} tokens{cached} in {timings.prefill:.2f} s"
    line += f" ({read:,.0f}/s)" if read else ""
    line += f", wrote {usage.completion_tokens:,} in {timings.decode:.2f} s"
    line += f" ({write:,.0f}/s)" if write else ""
    if usage.completion_keys.sparsity:
        line += f", attending to {1 - usage.completion_keys.sparsity:.0%} of the text"
    if completion.finish_reason == "length":
        line += "; cut off at the longest answer, --max-tokens allows more"
    elif completion.finish_reason == "abort":
        line += "; stopped"
    return line


def as_json(completion: "Completion", llm: "LLM") -> dict[str, Any]:
    """The object that ``--json`` prints."""
    sparse = llm.capabilities.sparse
    return {
        "model": llm.source,
        "attention": "dense" if sparse is None else asdict(sparse),
        "warnings": list(llm.capabilities.warnings),
        "text": completion.text,
        "reasoning": completion.reasoning,
        "finish_reason": str(completion.finish_reason),
        "stop": completion.stop,
        "passages": [asdict(passage) for passage in completion.passages],
        "usage": asdict(completion.usage),
        "sparsity": {
            "prompt": completion.usage.prompt_keys.sparsity,
            "completion": completion.usage.completion_keys.sparsity,
        },
        "timings": {
            **asdict(completion.timings),
            "prefill_tokens_per_second": completion.prefill_rate,
            "decode_tokens_per_second": completion.decode_rate,
        },
        "seed": completion.seed,
        "token_ids": list(completion.token_ids),
    }


def read_standard_input() -> str:
    """All of standard input as text. Raises FormatError for what is no text."""
    from whimbrel.formats.document import decode

    return decode(sys.stdin.buffer.read(), "standard input")
