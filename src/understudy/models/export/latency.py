"""Latency with settled threads: median and ninth decile of many calls after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from understudy.utils.machine import cpu_threads, num_cpus

__all__ = ["BATCH_SIZES", "Latency", "latency", "thread_counts"]

BATCH_SIZES = (1, 32)
FEWEST_CALLS = 20
WARMUP_CALLS = 3
SECONDS = 0.5  # that a measurement takes where 20 calls are done by then
MOST_SECONDS = 3.0  # after which it ends with the calls that there were


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one call, in milliseconds."""

    p50: float
    p90: float


def thread_counts() -> list[int]:
    """One thread, and as many as this process has cores."""
    return sorted({1, num_cpus()})


def latency(call: Callable[[], object], *, threads: int, seconds: float = SECONDS) -> Latency:
    """Milliseconds of `call`.

    Args:
        call: what to time; one that has threads of its own was made with as many.
        threads: of torch meanwhile.
        seconds: how long to measure; longer for 20 calls, but at most six times as long.
    """
    with cpu_threads(threads), torch.no_grad():
        started = time.perf_counter()
        for _ in range(WARMUP_CALLS):
            call()
            if time.perf_counter() - started > seconds:
                break
        taken: list[float] = []
        started = time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds or (
            len(taken) < FEWEST_CALLS and passed < seconds * MOST_SECONDS / SECONDS
        ):
            before = time.perf_counter()
            call()
            taken.append(time.perf_counter() - before)
    p50, p90 = 1e3 * np.percentile(taken, (50, 90))
    return Latency(float(p50), float(p90))
