"""Seconds that a test can hold to a limit on a busy machine: those spent waiting for a processor are left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec

P = ParamSpec("P")


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


def within(seconds: float) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Hold every call of a test's function to a limit; what it waits for a processor does not count."""

    def limited(test: Callable[P, None]) -> Callable[P, None]:
        @wraps(test)
        def call(*args: P.args, **kwargs: P.kwargs) -> None:
            began = own_clock()
            test(*args, **kwargs)
            taken = own_clock() - began
            assert taken < seconds, f"took {taken:.1f} s of its own"

        return call

    return limited
