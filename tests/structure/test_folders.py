"""The tree is what the README and the packages say it is."""

import ast
import re
from pathlib import Path

import pytest

WORDS = ("for", "in", "out", "may not")
ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in (ROOT / "src" / "whimbrel").glob("*/__init__.py"))
MODULES = sorted((ROOT / "src" / "whimbrel").rglob("*.py"))


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_says_what_it_is_for_and_what_it_may_not(package: Path) -> None:
    text = docstring(package / "__init__.py").lower()
    missing = [word for word in WORDS if not re.search(rf"\b{word}\b\W*:|\*\*{word}\*\*", text)]
    assert not missing, f"{package.name}/__init__.py has no {missing}"


@pytest.mark.parametrize("folder", ["docs", "examples", "examples/documents", "native/vec"])
def test_a_folder_beside_the_package_has_a_readme(root: Path, folder: str) -> None:
    text = (root / folder / "README.md").read_text(encoding="utf-8").lower()
    assert all(word in text for word in WORDS)


def test_every_module_opens_with_what_it_does() -> None:
    assert not [str(path.relative_to(ROOT)) for path in MODULES if not docstring(path)]


def test_the_readme_lists_the_packages_and_no_others(root: Path) -> None:
    section = (root / "README.md").read_text(encoding="utf-8").partition("## Folders")[2]
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(listed) == [package.name for package in PACKAGES]


def test_the_readme_fits_on_a_screen_or_two(root: Path) -> None:
    assert len((root / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


def test_every_op_has_the_same_files(package: Path) -> None:
    for op in (path.parent for path in (package / "ops").glob("*/__init__.py")):
        assert {"reference.py", "native.py", "cases.py"} <= {path.name for path in op.iterdir()}, op.name


def test_examples_are_short(root: Path) -> None:
    for path in (root / "examples").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 40, path.name
        assert path.name in (root / "examples" / "README.md").read_text(encoding="utf-8")


def test_links_between_pages_lead_somewhere(root: Path) -> None:
    for page in [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("examples/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name} -> {target}"


def test_ci_runs_the_readmes_test_command(root: Path) -> None:
    script = root / ".ci" / "run"
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash")
    assert "exec make test\n" in script.read_text(encoding="utf-8")
    assert "make test" in (root / "README.md").read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o111
