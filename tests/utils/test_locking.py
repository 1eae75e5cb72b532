"""A folder that one process at a time writes to."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.engine import run_recipe, tiny_recipe
from understudy import UserError
from understudy.utils.lock import LOCK_FILE, held

HOLDER = """
import sys
from pathlib import Path
from understudy.utils.lock import held
with held(Path(sys.argv[1]), what="run folder"):
    print("holds", flush=True)
    sys.stdin.read()  # until it is killed
"""
PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], **PIPES)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.wait()


def test_another_process_is_refused_and_told_who_holds_the_folder(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with (
        pytest.raises(UserError, match=rf"run folder .* by another process \(process {holder.pid} on "),
        held(tmp_path, what="run folder"),
    ):
        pass


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with held(tmp_path, what="run folder"):
        pass
    assert not (tmp_path / LOCK_FILE).exists()


def test_the_second_of_two_equal_runs_is_refused_and_the_first_one_finishes(tmp_path: Path) -> None:
    recipe = tiny_recipe({"seeds": [0], "epochs": 1, "rows": ["alone"]})
    run_recipe(recipe, tmp_path / "run", overwrite=True)
    (tmp_path / "run/results.json").unlink()  # as of a run that is not finished
    (tmp_path / "run/report.html").unlink()
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "run"], **PIPES)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        for overwrite in (False, True):
            with pytest.raises(UserError, match="is being written to by another process"):
                run_recipe(recipe, tmp_path / "run", overwrite=overwrite)
            assert (tmp_path / "run/student").is_dir()
    finally:
        process.kill()
        process.wait()
    assert run_recipe(recipe, tmp_path / "run").is_finished


def test_a_link_in_the_lock_files_place_is_refused_and_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_FILE).symlink_to(precious)
    with pytest.raises(UserError, match="is a link"), held(tmp_path / "run", what="run folder"):
        pass
    assert precious.read_text() == "mine"


WITH_A_WORKER = HOLDER.replace(
    'print("holds", flush=True)',
    """import os, time
    worker = os.fork()
    if worker == 0:
        time.sleep(600)
    print(worker, flush=True)""",
)


def test_a_worker_that_outlives_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WITH_A_WORKER, tmp_path], **PIPES) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        try:
            process.kill()
            process.wait()
            with held(tmp_path, what="run folder"):
                os.kill(worker, 0)  # it lives
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_worker_that_ends_leaves_the_lock_to_its_process(tmp_path: Path) -> None:
    with held(tmp_path, what="run folder"):
        worker = os.fork()
        if worker == 0:
            os._exit(0)
        os.waitpid(worker, 0)
        (tmp_path / LOCK_FILE).read_text()  # nor does it fall with another look into the file
        said = subprocess.run([sys.executable, "-c", HOLDER, tmp_path], capture_output=True, text=True, input="")
    assert f"by another process (process {os.getpid()} on " in said.stderr


def test_the_same_process_is_refused_a_second_time(tmp_path: Path) -> None:
    with (
        held(tmp_path, what="bank"),
        pytest.raises(UserError, match=rf"process {os.getpid()} on "),
        held(tmp_path, what="bank"),
    ):
        pass


def test_nothing_is_kept_where_a_file_system_knows_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_to_give(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none_to_give)
    with held(tmp_path, what="bank"), held(tmp_path, what="bank"):
        pass


def test_a_folder_that_cannot_be_written_to_is_no_folder_without_locks(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(OSError, match="lock"), held(tmp_path, what="bank"):
        pass
