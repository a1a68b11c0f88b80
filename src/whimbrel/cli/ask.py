"""``whimbrel ask``: a question about documents."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from whimbrel.cli.kept import are_kept, open_kept
from whimbrel.cli.passages import show_passages
from whimbrel.cli.shape import shape_options
from whimbrel.cli.shell import verb
from whimbrel.errors import PromptTooLong, UsageError

if TYPE_CHECKING:
    from whimbrel.backends.llm import LLM
    from whimbrel.backends.passages import DocumentMap

_LEAST_ANSWER = 16
"""Tokens of room that an answer needs to be one."""


@verb()
def ask(
    words: Annotated[
        list[str],
        typer.Argument(metavar="FILE... QUESTION", help="Text, Markdown, HTML, PDF (- is standard input), or .kv."),
    ],
    model: options.Model = None,
    system: options.System = None,
    context: options.Context = None,
    threads: options.Threads = None,
    weights: options.Weights = None,
    kv_dtype: options.KVDtype = None,
    attention: options.Attention = None,
    sparse: options.Sparse = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    schema: options.Schema = None,
    regex: options.Regex = None,
    choices: options.Choices = None,
    passages: Annotated[
        int, typer.Option("--passages", min=0, metavar="N", help="Show the N passages that the answer read most.")
    ] = 0,
    stale: Annotated[bool, typer.Option("--stale", help="Ask a .kv though its document has changed since.")] = False,
    json: options.Json = False,
) -> None:
    """Answer a question about documents.

    A document that is longer than the context is an error, never cut. What `whimbrel read` has read is not read again.
    """
    files, question = words[:-1], checked_text(words[-1], "the question")
    if not files:
        raise UsageError('no document was named; write: whimbrel ask FILE... "QUESTION"')
    if os.path.isfile(question):  # a Path would raise for a question longer than a file name
        raise UsageError(
            f'{question} is a file, and the last word is the question: whimbrel ask {" ".join(words)} "..."'
        )
    sampling = sampling_options(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, repetition_penalty=repetition_penalty, seed=seed
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
    read_map: DocumentMap | None = None
    if are_kept(files):
        document = open_kept(files, flags, system=system, stale=stale)
        prompt = document.prompt(question)
        llm, ids, known, read_map = document.llm, list(prompt.ids), document.cached_tokens, document.map(prompt)
    else:
        if stale:
            raise UsageError("--stale is about .kv files; plain documents are read as they are now")
        documents = [(name, _read(name)) for name in files]
        llm, known = open_model(**flags), 0
        messages = [{"role": "system", "content": system}] if system else []
        ids = llm.prompt_ids([*messages, {"role": "user", "content": reading_prompt(documents, question)}])
        read_map = map_of(llm, ids, documents) if passages else None
    _check_length(llm, files, len(ids), sampling.get("max_tokens"))
    sampling["max_tokens"] = answer_tokens(llm, len(ids), sampling.get("max_tokens"))
    stream = llm.stream_ids(ids, block_mass=passages > 0, conversation=True, **sampling)
    completion = show_stream(stream, len(ids) - known, quiet=json)
    if passages and read_map is not None:
        completion = read_map.with_passages(completion, passages)
        if not json:
            show_passages(completion, read_map)
    if json:
        terminal.result_json({**as_json(completion, llm), "documents": files, "question": question})
    else:
        terminal.note(last_line(completion))


def map_of(llm: "LLM", ids: list[int], documents: list[tuple[str, str]]) -> "DocumentMap":
    """Where plain documents lie in a prompt of theirs."""
    from whimbrel.backends.passages import DocumentMap, find_spans

    texts = {name: text.strip() for name, text in documents}
    return DocumentMap.of(find_spans(llm.tokenizer, ids, texts), texts, len(ids), llm.capabilities.sparse)


def reading_prompt(documents: list[tuple[str, str]], question: str) -> str:
    """The user's message: the documents, each under its name where there are several, then the question."""
    if len(documents) == 1:
        return f"{documents[0][1].strip()}\n\n---\n\n{question}"
    parts = [f"Document {Path(name).name}:\n\n{text.strip()}" for name, text in documents]
    return "\n\n---\n\n".join([*parts, question])


def _read(name: str) -> str:
    from whimbrel.formats.document import read_document

    return checked_text(read_standard_input(), "standard input") if name == "-" else read_document(Path(name))


def _check_length(llm: "LLM", files: list[str], length: int, max_tokens: int | None) -> None:
    """Raises PromptTooLong with both numbers, and the ``--context`` that would do."""
    needed = length + (_LEAST_ANSWER if max_tokens is None else max_tokens)
    if needed <= llm.context:
        return
    wanted = -(-(length + (512 if max_tokens is None else max_tokens)) // 1024)
    trained = llm.trained_context
    advice = f"give it more with --context {wanted}k"
    if wanted * 1024 > trained:
        advice = (
            f"--context {wanted}k goes beyond the {trained:,} that this model was trained for, and answers suffer; "
            "better take a shorter document or a model with a longer context"
        )
    raise PromptTooLong(
        f"{', '.join(files)} and the question are {length:,} tokens, the context holds {llm.context:,}"
        f" with the answer: {advice}"
    )
