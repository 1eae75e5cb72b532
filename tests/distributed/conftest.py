"""A pair of processes, started once for all tests that need one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# The smallest settings of every method and the engine's helpers, here and in the two processes.
sys.path[:0] = [str(Path(__file__).parents[1] / "contract"), str(Path(__file__).parents[1])]

from two_processes import TwoProcesses  # noqa: E402 - found by now

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pair() -> Iterator[TwoProcesses]:
    """Two gloo processes; they start at the first call."""
    processes = TwoProcesses()
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def gpu_pair() -> Iterator[TwoProcesses]:
    """The same on one GPU."""
    processes = TwoProcesses(share_gpu=True)
    yield processes
    processes.close()
