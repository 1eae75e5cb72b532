"""A process of a run that is gone: one that loads images, or one of several that train."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.faulty_runs import Killing, Server, Tally, files_of, image_settings, image_tree, lost_bytes, recipe_file

MOST_SECONDS = 300  # until the others have noticed; an exchange waits for 30 minutes


def test_a_run_whose_worker_is_killed_says_so_and_goes_on_when_it_is_started_again(
    server: Server, tmp_path: Path, tally: Tally
) -> None:
    settings = image_settings(image_tree(tmp_path / "images")) | {"epochs": 3}
    peace = Killing.of(server, recipe_file(tmp_path, settings), tmp_path / "in peace/run")
    # Of 48 an epoch; 16 are evaluated, by processes of their own. By its 42nd, a step has been taken.
    ending = server.run(peace.recipe, tmp_path / "run", kill={"image": 42})
    assert ending.code == 2, ending.said
    assert "a process that loads images is gone" in ending.said
    assert "lower data.workers" in ending.said
    assert "Traceback" not in ending.said
    ending = server.run(peace.recipe, tmp_path / "run")
    assert ending.code == 0, ending.said
    assert "goes on in epoch 1, after step " in ending.said
    lost = lost_bytes(tmp_path / "run", peace.expected)
    tally("data worker killed", injected=1, recovered=1, lost_bytes=lost)


def launched(recipe: Path, out: Path, said: Path) -> subprocess.Popen[bytes]:
    """The recipe in two processes under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "understudy", "compare", str(recipe), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with said.open("wb") as stream:
        return subprocess.Popen([*command, *arguments], env=environment, stdout=stream, stderr=subprocess.STDOUT)


def run_to_its_end(recipe: Path, out: Path, said: Path) -> None:
    code = launched(recipe, out, said).wait(600)
    assert code == 0, said.read_text()


def rank_of(launcher: int, rank: int) -> int:
    """The process of a rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    variable = f"RANK={rank}".encode()
    (pid,) = [pid for pid in children if variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
    return int(pid)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], said: Path) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"rows": ["kd+dot"], "seeds": [0], "epochs": 30, "checkpoint_steps": 20, "log_every": 1}
    return recipe_file(tmp_path_factory.mktemp("recipe"), settings)


@pytest.fixture(scope="module")
def in_peace(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("peace")
    run_to_its_end(recipe, folder / "run", folder / "said.txt")
    return files_of(folder / "run")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finding a rank's process needs /proc: Linux")
@pytest.mark.parametrize("rank", [0, 1])
def test_the_other_ranks_stop_when_one_is_killed_and_the_job_goes_on_when_it_is_started_again(
    rank: int, recipe: Path, in_peace: dict[str, bytes], tmp_path: Path, tally: Tally
) -> None:
    metrics, said = tmp_path / "run/metrics.jsonl", tmp_path / "said.txt"
    process = launched(recipe, tmp_path / "run", said)
    wait_until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 40, process, said)
    survivor = rank_of(process.pid, 1 - rank)
    os.kill(rank_of(process.pid, rank), signal.SIGKILL)
    began = time.monotonic()
    assert process.wait(MOST_SECONDS) != 0
    print(f"rank {rank} killed: the job ended after {time.monotonic() - began:.1f} s")
    assert not Path(f"/proc/{survivor}").exists()

    run_to_its_end(recipe, tmp_path / "run", said)
    assert "goes on in epoch" in said.read_text()
    lost = lost_bytes(tmp_path / "run", in_peace)
    tally("rank killed under torchrun", injected=1, recovered=1, lost_bytes=lost)
