"""whimbrel: MiniCPM4 and the Llama family, read far, on the machine you have.

>>> from whimbrel import LLM                                # doctest: +SKIP
>>> for piece in LLM("smollm2-135m").stream("Hello"):       # doctest: +SKIP
...     print(piece.text, end="")
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whimbrel.backends.llm import LLM as LLM

__version__ = "0.1.0"
__all__ = ["LLM", "__version__"]


def __getattr__(name: str) -> Any:
    """Import ``LLM`` on first use: ``import whimbrel`` costs milliseconds and loads nothing."""
    if name == "LLM":
        globals()[name] = llm = _llm_with_names()
        return llm
    raise AttributeError(f"module 'whimbrel' has no attribute {name!r}")


def _llm_with_names() -> type:
    """``backends.llm.LLM`` that also knows models by name: backends may not know the model store, the root knows both."""
    base = import_module("whimbrel.backends.llm").LLM

    def resolve(name: str) -> Path:
        path: Path = import_module("whimbrel.zoo.store").resolve(name)
        return path

    return type("LLM", (base,), {"resolve": staticmethod(resolve), "__module__": __name__, "__doc__": base.__doc__})
