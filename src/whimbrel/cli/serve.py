"""``whimbrel serve``: models over HTTP, for programs that speak OpenAI's API and for people with a browser."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli.shell import verb
from whimbrel.errors import InvalidParameter


def _text(flag: str, help: str, **more: Any) -> Any:
    return typer.Option(flag, help=help, **more)


def _bytes(flag: str, help: str) -> Any:
    return typer.Option(flag, parser=options.quantity, metavar="BYTES", help=help)


def _seconds(flag: str, help: str) -> Any:
    return typer.Option(flag, metavar="SECONDS", help=help)


Models = Annotated[
    list[str] | None,
    typer.Argument(
        help="Names or paths; the first answers requests that name none.  [default: smollm2-135m]", show_default=False
    ),
]


@verb()
def serve(
    models: Models = None,
    host: Annotated[str, _text("--host", "Address to listen on; an open one wants --api-key.")] = "127.0.0.1",
    port: Annotated[int, _text("--port", "0 takes any free one.")] = 8080,
    api_key: Annotated[list[str] | None, _text("--api-key", "Key that every path wants.  [WHIMBREL_API_KEY]")] = None,
    allowed_host: Annotated[list[str] | None, _text("--allowed-host", "A further name of this server.")] = None,
    cors_origin: Annotated[list[str] | None, _text("--cors-origin", "A site whose pages may ask.")] = None,
    strict: Annotated[bool, _text("--strict", "Refuse fields that are unknown or not supported.")] = False,
    max_sequences: Annotated[int, _text("--max-sequences", "Answers written at a time, per model.")] = 16,
    max_queue: Annotated[int, _text("--max-queue", "Answers that may wait, per model; then 429.")] = 64,
    max_models: Annotated[int | None, _text("--max-models", "Models in memory.  [default: as many as fit]")] = None,
    keep_alive: Annotated[float | None, _seconds("--keep-alive", "Unload a model that nobody asks so long.")] = None,
    cache: Annotated[Any, _bytes("--cache", "Cache per model.  [default: 2G, or one context]")] = None,
    files: Annotated[Path | None, _text("--files", "Folder that keeps documents.  [default: until it stops]")] = None,
    max_body: Annotated[Any, _bytes("--max-body", "Largest request.")] = "32m",
    max_file: Annotated[Any, _bytes("--max-file", "Largest document.")] = "512m",
    stop_timeout: Annotated[float, _seconds("--stop-timeout", "What running answers have at the end.")] = 30.0,
    log_format: Annotated[str, _text("--log-format", "text or json.")] = "text",
    context: options.Context = None,
    threads: options.Threads = None,
    weights: options.Weights = None,
    kv_dtype: options.KVDtype = None,
    attention: options.Attention = None,
    sparse: options.Sparse = None,
) -> None:
    """Serve models over HTTP.

    OpenAI's, Anthropic's and Ollama's APIs, and a chat page. Ctrl-C, or SIGTERM, stops taking requests and lets running
    answers finish; a second one ends them.
    """
    _configure_log(log_format)
    settings, run = _import_server()
    given = {
        "context": context,
        "threads": threads,
        "weights": weights,
        "kv_dtype": kv_dtype,
        "attention": attention,
        "sparse": sparse,
    }
    run(
        settings(
            models=tuple(models or _default_models()),
            model_options={**_model_options(given), "max_sequences": max_sequences, "cache_bytes": cache},
            host=host,
            port=port,
            api_keys=tuple(_key_of_environment() if api_key is None else api_key),
            allowed_hosts=tuple(allowed_host or ()),
            cors_origins=tuple(cors_origin or ()),
            strict=strict,
            max_queue=max_queue,
            max_models=max_models,
            keep_alive=keep_alive,
            files=files,
            max_body=max_body,
            max_file=max_file,
            stop_timeout=stop_timeout,
        ),
        listening=_announce,
    )


def _import_server() -> Any:
    from whimbrel.errors import MissingExtra

    try:
        from whimbrel.server.run import serve
        from whimbrel.server.settings import ServerSettings
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("whimbrel"):
            raise
        raise MissingExtra(f"the server wants {error.name}: pip install 'whimbrel[server]'") from None
    return ServerSettings, serve


def _default_models() -> list[str]:
    from whimbrel.cli.settings import filled
    from whimbrel.zoo.catalog import DEFAULT_MODEL

    return [filled({"model": None}).get("model", DEFAULT_MODEL)]


def _model_options(given: dict[str, Any]) -> dict[str, Any]:
    from whimbrel.cli.settings import filled

    return filled(given)


def _key_of_environment() -> list[str]:
    from whimbrel import hardware

    key = hardware.variable("WHIMBREL_API_KEY")
    return [key] if key else []


def _configure_log(format: str) -> None:
    import logging

    from whimbrel.server import logs

    if format not in logs.FORMATS:
        raise InvalidParameter(f"--log-format {format!r} is unknown; there are {', '.join(logs.FORMATS)}")
    logs.configure(format, logging.getLogger().level if logging.getLogger().level != logging.WARNING else logging.INFO)


def _announce(address: str) -> None:
    """Also with --quiet: without the address a server on a free port could not be found."""
    print(f"listening on {address}", file=sys.stderr, flush=True)
    terminal.note(f"chat page: {address}/   OpenAI's API: {address}/v1   stop: Ctrl-C")
