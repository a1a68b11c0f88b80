"""Numbers as people write and read them: ``32k`` tokens, ``1.5G`` bytes, ``94 MB``."""

import re

from whimbrel.errors import InvalidParameter

_FACTORS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_quantity(text: str) -> int:
    """``"32k"`` -> 32768, ``"1.5G"`` -> 1610612736, ``"100"`` -> 100. Factors are powers of 1024, in either case."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]?)(?:i?b)?", text.strip().replace("_", "").lower())
    if not match:
        raise InvalidParameter(f"{text!r} is no number; write 4096, 32k or 1.5G (k, M, G are powers of 1024)")
    return int(float(match[1]) * _FACTORS[match[2]])


def parse_quantities(text: str) -> list[int]:
    """A list of them: ``"512,2k,8k"`` -> [512, 2048, 8192]."""
    return [parse_quantity(part) for part in text.split(",")]


def bytes_text(count: float) -> str:
    """Bytes for people: ``94 MB``, ``1.25 GB`` (decimal, as disks and downloads are counted)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count:.0f} B"


def count_text(count: float) -> str:
    """A count of tokens or parameters for people: ``135 M``, ``8.19 G``, ``8,192``."""
    if count < 1e6:
        return f"{count:,.0f}"
    return f"{count / 1e9:.3g} G" if count >= 1e9 else f"{count / 1e6:.3g} M"
