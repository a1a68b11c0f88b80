"""Texts and prompts that the peers are asked about, from the data that lies beside the checkout."""

import gzip
import json
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "documents" / "pep-0616.txt"
PROMPTS = 20
PROMPT_CHARACTERS = 1500


def data(name: str) -> Path:
    """A file of the shared data; skips the test, with its name, where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the shared data file {name} is not here")
    return path


def prompts() -> list[str]:
    """Twenty prompts of thirteen kinds (Spec-Bench), short and long, in English and German, prose and code."""
    lines = data("spec_bench/question.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines]
    kinds = sorted({question["category"] for question in questions})
    by_kind = {kind: [q["turns"][0] for q in questions if q["category"] == kind] for kind in kinds}
    chosen = [by_kind[kind][round_] for round_ in range(2) for kind in kinds]
    return [text[:PROMPT_CHARACTERS] for text in chosen[:PROMPTS]]


def documents() -> list[str]:
    """589 technical documents, 10.8M characters."""
    with gzip.open(data("documents/peps.jsonl.gz"), "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]
