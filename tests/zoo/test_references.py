"""What people type to name a model."""

from pathlib import Path

import pytest

from whimbrel.errors import UsageError
from whimbrel.zoo.catalog import catalog
from whimbrel.zoo.references import parse_reference


@pytest.mark.parametrize(
    ("text", "kind", "repository", "quant", "revision"),
    [
        ("smollm2-135m", "name", "", "", ""),
        ("minicpm4.1-8b", "name", "", "", ""),
        ("openbmb/MiniCPM4-0.5B", "hub", "openbmb/MiniCPM4-0.5B", "", ""),
        ("org/name:Q4_K_M", "hub", "org/name", "Q4_K_M", ""),
        ("org/name@refs/pr/3", "hub", "org/name", "", "refs/pr/3"),
        ("org/na.me-1:q8@v1.0", "hub", "org/na.me-1", "q8", "v1.0"),
        ("https://host/dir/x.gguf?download=1", "url", "", "", ""),
        ("./folder", "path", "", "", ""),
        ("~/models/x", "path", "", "", ""),
        ("/abs/x.gguf", "path", "", "", ""),
        ("x.gguf", "path", "", "", ""),
        ("sub/x.gguf", "path", "", "", ""),
    ],
)
def test_forms(text: str, kind: str, repository: str, quant: str, revision: str) -> None:
    found = parse_reference(text)
    assert (found.kind, found.repository, found.quant, found.revision) == (kind, repository, quant, revision)


@pytest.mark.parametrize(
    "text", ["", "  ", "a b", "a/b/c", "org/name:", "org/name@", "ftp://host/x.gguf", "https://host/page.html", "nämé"]
)
def test_nonsense_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(text)


def test_a_path_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_reference("org/name").kind == "path"


def test_the_catalogue_is_complete() -> None:
    assert list(catalog()) == ["smollm2-135m", "minicpm4-0.5b", "minicpm4-8b", "minicpm4.1-8b"]
    for name, entry in catalog().items():
        assert parse_reference(name).kind == "name"
        assert entry.source in {"wheel", "hub"}
        assert bool(entry.repository) == (entry.source == "hub")
        assert bool(entry.requirement and entry.member and len(entry.sha256) == 64) == (entry.source == "wheel")
