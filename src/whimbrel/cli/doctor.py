"""``whimbrel doctor``: is everything in order on this machine?"""

import sys
from dataclasses import asdict
from typing import Any

import typer

from whimbrel import __version__, hardware
from whimbrel.cli import options, terminal
from whimbrel.cli.quantity import bytes_text
from whimbrel.cli.shell import verb


@verb()
def doctor(json: options.Json = False) -> None:
    """Report on this machine and installation.

    Kernels, models, disk, optional parts; exit code 1 where something is broken.
    """
    from whimbrel.zoo.checkup import checkup

    machine = hardware.machine()
    checks = checkup()
    if json:
        report: dict[str, Any] = {"version": __version__, "machine": asdict(machine)}
        terminal.result_json({**report, "checks": [asdict(check) for check in checks]})
    else:
        memory = machine.memory
        terminal.result(f"whimbrel {__version__}, Python {machine.python}, {machine.system} on {machine.architecture}")
        terminal.result(f"{machine.cpu}: {machine.cores} cores to use, {hardware.threads()} threads")
        free, limit = bytes_text(memory.available), bytes_text(memory.total)
        terminal.result(f"memory: {free} free of {limit} (limit of the {memory.limited_by})\n")
        for check in checks:
            terminal.result(f"{check.mark:<8}{check.name}: {check.found}")
    if any(check.mark == "broken" for check in checks):
        terminal.note(f"\nsomething is broken; python is {sys.executable}")
        raise typer.Exit(1)
