"""A pair of processes, started once for all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.two_processes import TwoProcesses


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
