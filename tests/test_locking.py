"""A folder that one process at a time writes to."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine_helpers import run_recipe, tiny_recipe
from understudy import UserError
from understudy.locking import LOCK_FILE, held

HOLDER = """
import sys
from pathlib import Path
from understudy.locking import held
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
