"""The documentation is what the program says and does."""

import importlib.util
import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OFFLINE = {"list", "ops", "plan"}
"""Verbs that need neither a model nor the network; ``plan`` of a preset does not."""


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, code) of every fenced block in that language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(page.name, code) for page in DOCUMENTS for code in fence.findall(page.read_text(encoding="utf-8"))]


def commands(program: str) -> list[list[str]]:
    """Every documented command line of a program, without the program's name."""
    lines = [line for _, code in blocks("bash") for line in code.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(f"{program} ")]


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["cli.md", "environment.md"])
def test_generated_pages_are_fresh(page: str) -> None:
    locked = re.search(r"^typer==(\S+)$", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    if locked and metadata.version("typer") != locked[1]:
        pytest.skip(f"typer {metadata.version('typer')} words its help in another way than the locked {locked[1]}")
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == generator().PAGES[page](), "run `make docs`"


@pytest.mark.parametrize("words", commands("whimbrel"), ids=" ".join)
def test_a_documented_command_is_understood(words: list[str]) -> None:
    from whimbrel.cli.main import app

    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


@pytest.mark.parametrize(
    "line", sorted({shlex.join(words) for words in commands("whimbrel") if words[0] in OFFLINE}), ids=str
)
def test_a_documented_command_that_can_run_offline_runs(line: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from whimbrel.cli.main import app

    monkeypatch.setattr("whimbrel.bench.bandwidth.read_bandwidth", lambda size: 1e10)
    result = CliRunner().invoke(app, shlex.split(line))
    assert result.exit_code in {0, 4}, result.output  # 4: this machine is too small for the example
    assert result.stdout


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_a_documented_make_target_exists(words: list[str]) -> None:
    assert re.search(rf"^{words[0]}:.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_make_target_says_what_it_does() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony and all(re.search(rf"^{target}:.*## \w", text, re.MULTILINE) for target in phony[1].split())


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_blocks_are_valid(page: str, code: str) -> None:
    compile(code, page, "exec")


def test_every_command_is_described_and_takes_the_common_flags() -> None:
    from whimbrel.cli.main import app

    def check(command: Any) -> None:
        if children := getattr(command, "commands", None):
            for child in children.values():
                check(child)
            return
        names = {option for parameter in command.params for option in parameter.opts}
        assert {"--debug", "--quiet", "--offline"} <= names, command.name
        assert command.help and len(command.get_short_help_str(60)) < 55, command.name

    check(typer.main.get_command(app))
