"""``whimbrel run``: one answer, or a conversation."""

import sys
from typing import Annotated

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
    json: options.Json = False,
) -> None:
    """Answer a prompt; without one, talk.

    Ctrl-C stops an answer; in a conversation the program goes on. The last line goes to standard error.
    """
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
    llm = open_model(
        model=model,
        context=context,
        threads=threads,
        weights=weights,
        kv_dtype=kv_dtype,
        attention=attention,
        sparse=sparse,
    )
    if text is None:
        from whimbrel.cli.conversation import Conversation, terminal_reader

        Conversation(llm, system=system, sampling=sampling).run(terminal_reader())
        return
    messages = [{"role": "system", "content": system}] if system else []
    ids = llm.prompt_ids(text if raw else [*messages, {"role": "user", "content": text}])
    sampling["max_tokens"] = answer_tokens(llm, len(ids), sampling.get("max_tokens"))
    stream = llm.stream_ids(ids, conversation=not raw, **sampling)
    completion = show_stream(stream, len(ids), quiet=json)
    if json:
        terminal.result_json(as_json(completion, llm))
    else:
        terminal.note(last_line(completion))
