"""Seconds that a test can hold to a limit on a busy machine: those spent waiting for a processor are left out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def own_clock(pid: int | str = "self") -> float:
    """A clock that runs while the main thread of a process computes or sleeps, not while it waits for a processor.

    Where the kernel does not count that (no Linux), it is a plain clock.
    """
    file = Path(f"/proc/{pid}/schedstat")
    queued = int(file.read_text().split()[1]) / 1e9 if file.exists() else 0.0
    return time.monotonic() - queued


class Stopwatch:
    """What `timed` measured."""

    asleep: float  # seconds in which this process neither computed nor waited for a processor


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Measure the block."""
    watch, began, computed = Stopwatch(), own_clock(), time.process_time()
    yield watch
    watch.asleep = own_clock() - began - (time.process_time() - computed)
