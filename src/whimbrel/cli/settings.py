"""Where an option's value comes from when no flag gives it.

Flag, then environment (``WHIMBREL_MODEL`` ...), then ``whimbrel.toml`` in the current folder, then the user's
``config.toml``, then the model's own generation config, then the default. ``whimbrel config`` shows which one won.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whimbrel import hardware
from whimbrel.cli.constants import parse_constants
from whimbrel.cli.quantity import parse_quantity
from whimbrel.errors import FormatError, InvalidParameter

Parse = Callable[[str], Any]

MODEL_KEYS: Mapping[str, Parse] = {
    "model": str,
    "context": parse_quantity,
    "threads": int,
    "weights": str,
    "kv_dtype": str,
    "attention": str,
    "sparse": parse_constants,
}
ANSWER_KEYS: Mapping[str, Parse] = {
    "max_tokens": parse_quantity,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "seed": int,
}
KEYS: Mapping[str, Parse] = {**MODEL_KEYS, **ANSWER_KEYS}
"""What a settings file may hold."""

PROJECT_FILE = Path("whimbrel.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One value, and where it was found."""

    key: str
    value: Any
    origin: str


def user_file() -> Path:
    """``config.toml`` in the platform's folder for settings."""
    from platformdirs import user_config_path

    return user_config_path("whimbrel", appauthor=False) / "config.toml"


def settings() -> dict[str, Setting]:
    """What is set outside of the command line. Raises FormatError for a damaged file, InvalidParameter for a value."""
    found: dict[str, Setting] = {}
    for setting in (*_from_file(user_file()), *_from_file(PROJECT_FILE), *_from_environment()):
        found[setting.key] = setting
    return found


def filled(flags: Mapping[str, Any]) -> dict[str, Any]:
    """``flags`` (by key, None where not given) with what is set elsewhere; keys without any value are left out."""
    elsewhere = settings()
    values = {
        key: elsewhere[key].value if value is None and key in elsewhere else value for key, value in flags.items()
    }
    return {key: value for key, value in values.items() if value is not None and value != []}


def _from_environment() -> Iterator[Setting]:
    for key in KEYS:
        name = f"WHIMBREL_{key.upper()}"
        if name in hardware.ENVIRONMENT and (text := hardware.variable(name)) is not None:
            yield Setting(key=key, value=_parsed(key, text, name), origin=name)


def _from_file(path: Path) -> Iterator[Setting]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise FormatError(f"the settings in {path} can't be read: {error}; correct or remove the file") from error
    for key, value in table.items():
        if key not in KEYS:
            raise FormatError(f"{path}: there is no setting {key!r}; there are {', '.join(KEYS)}")
        yield Setting(key=key, value=_parsed(key, str(value), str(path)), origin=str(path))


def _parsed(key: str, text: str, origin: str) -> Any:
    try:
        return KEYS[key](text)
    except ValueError as error:
        raise InvalidParameter(f"{origin}: {key} = {text!r} is impossible ({error}); correct or remove it") from error
