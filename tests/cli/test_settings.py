"""Which value wins, and what a wrong settings file says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whimbrel.cli import settings as module
from whimbrel.cli.settings import filled, settings
from whimbrel.errors import FormatError, InvalidParameter


@pytest.fixture(autouse=True)
def folders(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder and an empty user folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "user_file", lambda: tmp_path / "user" / "config.toml")
    (tmp_path / "user").mkdir()
    return tmp_path


def test_the_order(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings() == {}
    (folders / "user" / "config.toml").write_text('context = "8k"\ntemperature = 0.5\nseed = 7\n')
    (folders / "whimbrel.toml").write_text('context = "16k"\nmodel = "mine"\n')
    monkeypatch.setenv("WHIMBREL_MODEL", "theirs")
    assert filled(dict.fromkeys(("model", "context", "temperature", "top_p"))) == {
        "model": "theirs", "context": 16384, "temperature": 0.5,
    }  # fmt: skip
    assert filled({"model": "flag", "context": 1, "temperature": 0.0})["temperature"] == 0.0
    assert filled({"stop": []}) == {}


def test_config_shows_where_values_come_from(folders: Path, call: Callable[..., Any]) -> None:
    (folders / "whimbrel.toml").write_text("threads = 3\n")
    lines = [line.split() for line in call("config").stdout.splitlines()]
    assert ["threads", "3", "whimbrel.toml"] in lines and ["seed", "-", "default"] in lines
    found = json.loads(call("config", "--json").stdout)
    assert found["settings"] == [{"key": "threads", "value": 3, "origin": "whimbrel.toml"}]
    assert set(found["files"]) == {"project", "user", "data"}


@pytest.mark.parametrize(
    ("text", "says"),
    [("threads = ", "can't be read"), ("speed = 3", "there is no setting 'speed'"), ('context = "zz"', "zz")],
)
def test_wrong_files_are_named(folders: Path, text: str, says: str) -> None:
    (folders / "whimbrel.toml").write_text(text)
    with pytest.raises((FormatError, InvalidParameter), match=says) as caught:
        settings()
    assert "whimbrel.toml" in str(caught.value)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIMBREL_THREADS", "many")
    with pytest.raises(InvalidParameter, match="WHIMBREL_THREADS"):
        settings()
