"""What packages offer: ``__all__`` is true, sorted, and complete; the exception tree is drawn as it is."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import whimbrel
from whimbrel import errors

PACKAGE = Path(whimbrel.__file__).parent
WITH_ALL = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "\n__all__ = " in path.read_text(encoding="utf-8") and "testing" not in path.parts
]


def imported_names(tree: ast.Module) -> set[str]:
    """Names that a module's top level imports from whimbrel."""
    return {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("whimbrel")
        for alias in node.names
    }


def as_ruff_sorts(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("path", WITH_ALL, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_all_is_true_and_sorted(path: Path) -> None:
    name = ".".join(["whimbrel", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    module = importlib.import_module(name)
    assert module.__all__ == sorted(set(module.__all__), key=as_ruff_sorts)
    assert [entry for entry in module.__all__ if not hasattr(module, entry)] == []
    if path.name == "__init__.py" and name != "whimbrel":
        public = {entry for entry in imported_names(ast.parse(path.read_text(encoding="utf-8"))) if entry[0] != "_"}
        assert public <= set(module.__all__), f"{name} imports names that it does not offer"


def test_the_exception_tree_is_drawn_as_it_is() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert classes == {line.strip("├└─│ ").split()[0] for line in (errors.__doc__ or "").splitlines() if "  " in line}
    assert all(issubclass(getattr(errors, name), errors.WhimbrelError) for name in classes)
