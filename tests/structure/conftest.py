"""Where things lie."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def package(root: Path) -> Path:
    """The package's source."""
    return root / "src" / "whimbrel"
