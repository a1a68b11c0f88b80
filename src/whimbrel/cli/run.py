"""``whimbrel run``: one answer, or a conversation."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli.answer import (
    answer_tokens,
    as_json,
    checked_text,
    last_line,
    open_model,
    read_standard_input,
    sampling_options,
    show_stream,
)
from whimbrel.cli.shape import shape_options
from whimbrel.cli.shell import verb
from whimbrel.errors import UsageError

if TYPE_CHECKING:
    from whimbrel.backends.chat import Chat
    from whimbrel.backends.llm import LLM
    from whimbrel.backends.results import Completion


@verb()
def run(
    prompt: Annotated[str | None, typer.Argument(help="What to answer; - or a pipe: standard input.")] = None,
    model: options.Model = None,
    system: options.System = None,
    raw: Annotated[bool, typer.Option("--raw", help="Go on with the text as it stands, no chat template.")] = False,
    context: options.Context = None,
    threads: options.Threads = None,
    weights: options.Weights = None,
    kv_dtype: options.KVDtype = None,
    attention: options.Attention = None,
    sparse: options.Sparse = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    schema: options.Schema = None,
    regex: options.Regex = None,
    choices: options.Choices = None,
    session: Annotated[
        Path | None, typer.Option("--session", metavar="FILE", help="Go on with a conversation, and keep it there.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Answer a prompt; without one, talk.

    Ctrl-C stops an answer; in a conversation the program goes on. The last line goes to standard error.
    """
    if session is not None and raw:
        raise UsageError("--session is a conversation and --raw goes on with a text; leave one of them out")
    if prompt is None and sys.stdin.isatty() and not json:
        text = None
    else:
        text = checked_text(read_standard_input() if prompt in {None, "-"} else str(prompt), "the prompt")
    sampling = sampling_options(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop,
    )
    sampling |= shape_options(schema, regex, choices)
    flags = {
        "model": model,
        "context": context,
        "threads": threads,
        "weights": weights,
        "kv_dtype": kv_dtype,
        "attention": attention,
        "sparse": sparse,
    }
    if session is not None:
        _go_on(session, text, flags, sampling, system=system, json=json)
        return
    llm = open_model(**flags)
    if text is None:
        from whimbrel.cli.conversation import Conversation, terminal_reader

        Conversation(llm, system=system, sampling=sampling).run(terminal_reader())
        return
    messages = [{"role": "system", "content": system}] if system else []
    ids = llm.prompt_ids(text if raw else [*messages, {"role": "user", "content": text}])
    sampling["max_tokens"] = answer_tokens(llm, len(ids), sampling.get("max_tokens"))
    _finish(show_stream(llm.stream_ids(ids, conversation=not raw, **sampling), len(ids), quiet=json), llm, json=json)


def _go_on(
    file: Path, text: str | None, flags: dict[str, Any], sampling: dict[str, Any], *, system: str | None, json: bool
) -> None:
    """A turn, or several, of the conversation in ``file``, which is saved however they end."""
    from whimbrel.cli.session import open_session, save_session, turn_tokens

    chat = open_session(file, flags, system=system)
    before = list(chat.messages)
    try:
        if text is None:
            chat = _talk(chat, sampling, system)
            return
        sampling["max_tokens"] = turn_tokens(chat, text, sampling.get("max_tokens"))
        _finish(show_stream(chat.stream(text, **sampling), 0, quiet=json), chat.llm, json=json)
    finally:
        if chat.messages != before:
            save_session(chat, file)


def _talk(chat: "Chat", sampling: dict[str, Any], system: str | None) -> "Chat":
    """Returns the conversation, which may be a new one by then."""
    from whimbrel.cli.conversation import Conversation, terminal_reader

    conversation = Conversation(chat.llm, system=system, sampling=sampling, chat=chat)
    conversation.run(terminal_reader())
    return conversation.chat


def _finish(completion: "Completion", llm: "LLM", *, json: bool) -> None:
    if json:
        terminal.result_json(as_json(completion, llm))
    else:
        terminal.note(last_line(completion))
