"""How fast this machine reads memory: the roof over decoding, which reads every weight once for each token."""

MEMORY_BYTES = 1 << 30
"""More than most last-level caches keep for one process; a smaller buffer may be read from a cache."""


def read_bandwidth(num_bytes: int = MEMORY_BYTES) -> float | None:
    """Bytes per second that the engine's threads read from a buffer of that size, the best of a few passes.

    None without the native module: a numpy thread would say little about the engine's.
    """
    try:
        from whimbrel import _native
    except ImportError:
        return None
    return float(f"{_native.read_bandwidth(num_bytes):.4g}")
