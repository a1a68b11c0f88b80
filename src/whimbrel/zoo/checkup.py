"""What ``whimbrel doctor`` looks at: native kernels, store, disk, network helpers, optional parts. Changes nothing."""

import importlib.util
import shutil
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path

from whimbrel import hardware
from whimbrel.errors import WhimbrelError
from whimbrel.zoo.catalog import DEFAULT_MODEL
from whimbrel.zoo.store import Store

_EXTRAS = {
    "torch": ("torch", "training, and the reference kernels"),
    "llama_cpp": ("peers", "`bench --against llama.cpp`"),
    "transformers": ("peers", "comparisons with transformers"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One finding. ``mark`` is "ok", "absent" (fine, optional) or "broken"."""

    mark: str
    name: str
    found: str


def checkup() -> list[Check]:
    """Every check, in the order in which they matter. Raises nothing: what fails is a finding."""
    return [_native(), _models(), _disk(), _pip(), *(_extra(module) for module in _EXTRAS), _settings()]


def _native() -> Check:
    try:
        native = import_module("whimbrel._native")
    except ImportError as error:
        return Check(
            mark="broken",
            name="native kernels",
            found=f"not importable ({error}); install again with a C++ compiler: pip install --force-reinstall whimbrel",
        )
    others = ", ".join(native.available_isas())
    try:
        return Check(mark="ok", name="native kernels", found=f"{hardware.isa()} (of {others})")
    except WhimbrelError as error:
        return Check(mark="broken", name="native kernels", found=str(error))


def _models() -> Check:
    try:
        records = Store().records()
    except WhimbrelError as error:
        return Check(mark="broken", name="models", found=str(error))
    gone = [record.name for record in records if not Path(record.path).exists()]
    if gone:
        return Check(mark="broken", name="models", found=f"files are gone of {', '.join(gone)}: pull them again, or rm")
    if not records:
        return Check(mark="absent", name="models", found=f"none yet; `whimbrel pull {DEFAULT_MODEL}`")
    return Check(mark="ok", name="models", found=", ".join(record.name for record in records))


def _disk() -> Check:
    folder = Store().folder
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return Check(mark="ok" if free > 1e9 else "broken", name="store", found=f"{folder}, {free / 1e9:.0f} GB free")


def _pip() -> Check:
    if importlib.util.find_spec("pip"):
        return Check(mark="ok", name="pip", found=f"{metadata.version('pip')} (pulls models that come in wheels)")
    return Check(mark="absent", name="pip", found="not in this environment; `python -m ensurepip` to pull from wheels")


def _extra(module: str) -> Check:
    extra, use = _EXTRAS[module]
    if importlib.util.find_spec(module):
        distribution = metadata.packages_distributions().get(module, [module])[0]
        return Check(mark="ok", name=module, found=f"{metadata.version(distribution)} ({use})")
    return Check(mark="absent", name=module, found=f"for {use}: pip install 'whimbrel[{extra}]'")


def _settings() -> Check:
    there = [f"{name}={value}" for name in hardware.ENVIRONMENT if (value := hardware.variable(name))]
    return Check(mark="ok", name="settings", found=", ".join(there) or "no WHIMBREL_* variable is set")
