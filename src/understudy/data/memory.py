"""Memory that was used to open data, handed back to the system: whoever allocated it would keep it."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["hand_back_memory"]


def hand_back_memory() -> None:
    """Let go of freed buffers: those in Arrow's pool, and those of threads that have ended (glibc keeps both)."""
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None  # musl has none
    if trim is not None:
        trim(0)
