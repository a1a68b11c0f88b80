"""Who may import whom, and what a start leaves out."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "triton", "ray", "fastapi", "matplotlib", "transformers", "llama_cpp", "sentencepiece", "gguf")
ALSO_LATE = ("numpy", "rich", "pydantic", "huggingface_hub", "tokenizers", "jinja2", "bs4", "pypdf", "prompt_toolkit")
MAIN = "from whimbrel.cli.main import main"


def fresh(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter that has imported nothing yet."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def imported_by(code: str, names: tuple[str, ...], *arguments: str) -> list[str]:
    report = f"import sys; print('IMPORTED', *sorted(set({names!r}) & set(sys.modules)))"
    wrapped = f"import atexit\natexit.register(lambda: exec({report!r}))\n{code}"
    result = fresh(wrapped, *arguments)
    lines = [line for line in result.stdout.splitlines() if line.startswith("IMPORTED")]
    assert lines, result.stderr
    return lines[-1].split()[1:]


def test_layers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    # In a process of its own: import-linter configures logging, which silences every logger that exists already.
    result = fresh("import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_logo=True))")
    assert result.returncode == 0, result.stdout


def test_import_whimbrel_loads_nothing() -> None:
    assert imported_by("import whimbrel", HEAVY + ALSO_LATE) == []


def test_help_loads_nothing() -> None:
    assert imported_by(f"{MAIN}; main()", HEAVY + ALSO_LATE, "--help") == []


@pytest.mark.parametrize(
    ("names", "module"),
    [
        (("LLM",), "whimbrel"),
        (("perplexity",), "whimbrel.eval.perplexity"),
        (("items", "grid"), "whimbrel.eval.niah"),
        (("items", "read_materials"), "whimbrel.eval.ruler"),
        (("run",), "whimbrel.bench.compare"),
        (("pull",), "whimbrel.zoo.pull"),
        (("plan",), "whimbrel.zoo.plan"),
        (("read_document",), "whimbrel.formats.document"),
    ],
)
def test_what_inference_imports(names: tuple[str, ...], module: str) -> None:
    assert imported_by(f"from {module} import {', '.join(names)}", HEAVY) == []


def test_every_command_file_imports_late() -> None:
    assert imported_by("import whimbrel.cli.main", HEAVY + ALSO_LATE) == []
