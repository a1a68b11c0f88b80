"""``whimbrel ops``: who computes what."""

from dataclasses import asdict

from whimbrel.cli import options, terminal
from whimbrel.cli.shell import verb


@verb()
def ops(json: options.Json = False) -> None:
    """List the ops and who computes them."""
    from whimbrel.ops import dispatch

    lines = dispatch.explain()
    if json:
        terminal.result_json({"ops": [asdict(line) for line in lines]})
        return
    rows = [(line.op, line.implementation, line.why_not or "runs here") for line in lines]
    terminal.table(("op", "implementation", "state"), rows)
