"""Files that cannot be written, in words."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from helpers.run_writer import write_run
from understudy.cli import main
from understudy.utils.files import refused_by_the_disk, write_atomically

NOWHERE = Path("/sys/page.html")  # refused for root, too


@pytest.mark.skipif(sys.platform != "linux", reason="/sys is Linux's")
def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for() -> None:
    with pytest.raises(OSError) as refused:
        write_atomically(NOWHERE, b"x")
    assert refused.value.filename == str(NOWHERE)
    said = refused_by_the_disk(refused.value)
    assert said is not None
    assert said.startswith(f"{NOWHERE}: ")
    assert "partial" not in said


def test_a_bug_stays_a_bug() -> None:
    assert refused_by_the_disk(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert refused_by_the_disk(ValueError("x")) is None
    assert str(refused_by_the_disk(OSError(errno.ENOSPC, "No space left on device"))).startswith("a file cannot be")


@pytest.mark.skipif(sys.platform != "linux", reason="/sys is Linux's")
def test_a_page_that_cannot_be_written_ends_without_a_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", rows=("kd",), seeds=(0,), num_epochs=1)
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run), "--out", str(NOWHERE)])
    assert ended.value.code == 2
    assert f"{NOWHERE}: " in capsys.readouterr().err
