"""Who computes an op: implementations imported on first use, chosen once, refused with the reason.

An implementation is a module with two functions:

    run(...)              the op, with the arguments of its specification
    why_not(*arrays)      None if it can serve these arrays, else one phrase that says why not

An explicit ``impl`` never falls back: it raises ``UnsupportedImplementation`` with that phrase. ``"auto"`` takes the
first implementation without objection, in the order of ``IMPLEMENTATIONS``; exceptions inside ``why_not`` propagate.
Not every op has a Triton kernel: torch's own are as good for the others, so ``bind("triton")`` takes the reference there.
"""

import functools
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from whimbrel.errors import InvalidParameter, UnsupportedImplementation
from whimbrel.ops.table import OpTable

IMPLEMENTATIONS = ("triton", "native", "reference")
"""Known implementations, the fastest first. ``triton`` and ``reference`` work on torch tensors, ``native`` on numpy arrays."""

ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "triton": ("exact", "int8", "bf16"),
    "native": ("int8", "bf16"),
    "reference": ("exact", "int8", "bf16"),
}
"""How an implementation can round the inputs of a matrix (see ``ops/norm_linear``); its default comes first."""

NO_KERNEL = "there is no Triton kernel of it; bind('triton') takes the reference"

OPTIONAL_MODULES: Mapping[str, str] = {
    "torch": "torch is not installed; pip install 'whimbrel[torch]'",
    "triton": "triton is not installed; pip install triton (Linux)",
    "whimbrel._native": "the native module is not built; pip install . (needs a C++ compiler)",
}


@dataclass(frozen=True, slots=True)
class Op:
    """One operation: a name, and the modules that implement it, by path so that none is imported before its use."""

    name: str
    modules: Mapping[str, str]

    @classmethod
    def of(cls, package: str) -> "Op":
        """The op whose folder is the package of that dotted name: ``OP = Op.of(__name__)``."""
        name = package.rpartition(".")[2]
        folder = Path(__file__).parent / name
        there = [impl for impl in IMPLEMENTATIONS if (folder / f"{impl}.py").exists()]
        return cls(name, {impl: f"{package}.{impl}" for impl in there})

    def why_not(self, impl: str, *arrays: Any) -> str | None:
        """Why ``impl`` can't serve ``arrays`` (without any: why it can't run here at all), or None if it can."""
        if impl not in self.modules:
            return (
                NO_KERNEL
                if impl == "triton"
                else f"there is no such implementation; there are {', '.join(self.modules)}"
            )
        if impl == "triton" and arrays and "torch" not in sys.modules:
            return "triton works on torch tensors, and torch was never imported"  # nor is it to find that out
        try:
            module = import_module(self.modules[impl])
            if impl == "triton" and not arrays:
                here: str | None = import_module("whimbrel.ops.triton").why_not_here()
                return here
        except ImportError as error:
            reason = _missing(error)
            if reason is None:
                raise
            return reason
        answer: str | None = module.why_not(*arrays) if arrays else None
        return answer

    def choose(self, impl: str, *arrays: Any) -> Callable[..., Any]:
        """The ``run`` of ``impl``, or of the first fitting one for ``"auto"``.

        Raises ``UnsupportedImplementation`` with the reason, or with all of them for ``"auto"``.
        """
        candidates = tuple(self.modules) if impl == "auto" else (impl,)
        reasons = []
        for candidate in candidates:
            reason = self.why_not(candidate, *arrays)
            if reason is None:
                run: Callable[..., Any] = import_module(self.modules[candidate]).run
                return run
            reasons.append(f"{candidate} can't serve: {reason}")
        raise UnsupportedImplementation(f"{self.name}: asked for {impl!r}; {'; '.join(reasons)}")


@dataclass(frozen=True, slots=True)
class Support:
    """One line of ``whimbrel ops``."""

    op: str
    implementation: str
    module: str | None
    """None where nobody wrote one"""
    why_not: str | None
    """None where it runs on this machine"""


def names() -> tuple[str, ...]:
    """All ops, which is all folders beside this file, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.ispkg))


def get(name: str) -> Op:
    """The op of that name. Raises ``InvalidParameter`` if there is none."""
    if name not in names():
        raise InvalidParameter(f"no op is called {name!r}; there are {', '.join(names())}")
    op: Op = import_module(f"whimbrel.ops.{name}").OP
    return op


def bind(impl: str = "auto", *, activations: str | None = None) -> OpTable:
    """Resolve all ops to one implementation, once: ``bind("native")``, ``bind("reference")``.

    ``bind("triton")`` takes the reference for ops without a Triton kernel; ``implementations`` of the table says which.
    ``activations`` says how the inputs of 4-bit and 8-bit matrices are rounded: ``"int8"`` per row and group of 32,
    ``"bf16"``, or (reference only) ``"exact"``. None takes the implementation's default: native int8, reference exact.
    Raises ``UnsupportedImplementation`` with the reason if an op, or that rounding, isn't available.
    """
    impl = _first_available() if impl == "auto" else impl
    chosen = {name: impl if impl in get(name).modules or impl != "triton" else "reference" for name in names()}
    runs = {name: get(name).choose(choice) for name, choice in chosen.items()}
    activations = ACTIVATIONS[impl][0] if activations is None else activations
    if activations not in ACTIVATIONS[impl]:
        offered = ", ".join(ACTIVATIONS[impl])
        raise UnsupportedImplementation(f"{impl} has no {activations!r} activations; it has {offered}")
    for name in ("norm_linear", "linear_residual", "norm_swiglu"):
        runs[name] = functools.partial(runs[name], activations=activations)
    return OpTable(**runs, implementations=chosen)


def explain() -> list[Support]:
    """Every op with every implementation, and why one can't run here. Imports what is installed."""
    return [
        Support(
            name, impl, f"whimbrel.ops.{name}.{impl}" if impl in get(name).modules else None, get(name).why_not(impl)
        )
        for name in names()
        for impl in IMPLEMENTATIONS
    ]


def _first_available() -> str:
    """The first implementation that can run here; the slower ones (torch: a second) are imported only if it can't.

    Triton is bound by name only: it needs weights and a cache on the GPU, and to look for one takes a second.
    """
    reasons = []
    for impl in ("native", "reference"):
        reason = next(filter(None, (get(name).why_not(impl) for name in names())), None)
        if reason is None:
            return impl
        reasons.append(f"{impl}: {reason}")
    raise UnsupportedImplementation("; ".join(reasons))


def _missing(error: ImportError) -> str | None:
    """The phrase for an optional module that isn't there or doesn't load; None for an import error of our own making.

    ``from whimbrel import _native`` of a missing extension names the package, not the extension: hence the second look.
    """
    if error.name == "whimbrel._native":
        return f"the native module does not load: {error}"
    if error.name == "whimbrel" and "_native" in error.msg:
        return OPTIONAL_MODULES["whimbrel._native"]
    return OPTIONAL_MODULES.get(error.name or "")
