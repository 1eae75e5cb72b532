"""Runs that can be killed, and a count of what was done to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.faulty_runs import Server, Tally
from understudy.models.cost import latency_ms

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Runs the command line in processes that can be killed."""
    if not hasattr(os, "fork") or not Path("/proc/self/fd").exists():
        pytest.skip("killing at a certain moment needs fork and /proc: Linux")
    said = tmp_path_factory.mktemp("server") / "said.txt"
    process = subprocess.Popen(
        [sys.executable, str(HERE / "fork_server.py"), str(said)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    stdin, stdout = process.stdin, process.stdout

    def ask(job: dict[str, Any]) -> dict[str, Any]:
        stdin.write(json.dumps(job) + "\n")
        stdin.flush()
        answer: dict[str, Any] = json.loads(stdout.readline())
        return answer

    yield Server(ask)
    stdin.close()
    process.wait(30)


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process do not take their time to measure speeds, which no test here is about."""
    monkeypatch.setitem(latency_ms.__kwdefaults__, "seconds", 0.0)


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """tally("killed", injected=20, recovered=20, lost_bytes=0) goes into docs/reliability.md by `make reliability`."""

    def count(fault: str, *, injected: int, recovered: int, lost_bytes: int | None = None) -> None:
        assert recovered == injected, f"{fault}: {recovered} of {injected} runs recovered"
        assert not lost_bytes, f"{fault}: {lost_bytes} bytes lost"
        numbers = {"injected": injected, "recovered": recovered}
        if lost_bytes is not None:  # there was another run to compare with
            numbers["lost_bytes"] = lost_bytes
        record_property(f"fault: {fault}", json.dumps(numbers))

    return count
