"""The command line under torchrun, as a person starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.command_line import refused

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "understudy")
DIGITS = ("--data", "digits", "--student", "cifar:resnet8", "--teacher", "cifar:resnet8", "--allow-weak-teacher")
FEW = ("data.train_rows=0:130", "data.val_rows=256:357", "data.batch_size=64", "student.kwargs={width: 0.25}")


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def started(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TORCHRUN, *words], capture_output=True, text=True, timeout=600, env=ENVIRONMENT)


@pytest.mark.slow
def test_a_run_is_trained_said_and_written_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = started("train", *DIGITS, "--epochs", "2", "--method", "dist", "--out", str(out), *FEW)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("data     ") == said.stdout.count("Page: ") == 1
    results = json.loads((out / "results.json").read_text())
    assert [row["name"] for row in results["rows"]] == ["dist"]
    epochs = [
        line for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()) if line["kind"] != "train"
    ]
    assert [line["epoch"] for line in epochs] == [1, 2]
    (run,) = [
        line for line in map(json.loads, (out / "timing.jsonl").read_text().splitlines()) if line["kind"] == "run"
    ]
    assert run["processes"] == 2


@pytest.mark.slow
def test_a_signal_to_torchrun_stops_all_after_a_whole_step_and_the_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("train", *DIGITS, "--epochs", "20", "--method", "dist", "--out", str(out), "log_every=1", *FEW)
    running = subprocess.Popen([*TORCHRUN, *words], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 600
    while not ((out / "metrics.jsonl").is_file() and (out / "metrics.jsonl").read_text().count("\n") > 5):
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=600)
    assert said.count("stopped after step") == 1
    assert not (out / "results.json").exists()

    assert started(*words).returncode == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 20 * 3 + 1))


@pytest.mark.slow
def test_what_must_be_mended_is_said_with_the_process_s_number() -> None:
    said = started("train", *DIGITS, "--epochs", "1", "--method", "kd", "method.temprature=4")
    assert said.returncode != 0
    lines = [line for line in said.stderr.splitlines() if "1 problem" in line]
    assert sum(line.startswith("process 1: ") for line in lines) == 1
    assert len(lines) <= 2
    assert said.stdout == ""
    assert "understudy/cli/" not in said.stderr  # the traceback there is torchrun's own


def test_the_second_process_is_silent_but_for_what_must_be_mended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert refused("methods", "kdd").startswith("process 1: method 'kdd' is unknown")
    monkeypatch.setenv("RANK", "0")
    assert refused("methods", "kdd").startswith("method 'kdd' is unknown")
