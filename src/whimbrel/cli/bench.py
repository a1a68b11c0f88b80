"""``whimbrel bench``: how fast, beside llama.cpp."""

from whimbrel.cli import options
from whimbrel.cli.shell import verb


@verb()
def bench(model: options.Model = None, json: options.Json = False) -> None:
    """Measure prefill and decode speed, beside llama.cpp on the same weights and prompts."""
    raise NotImplementedError
