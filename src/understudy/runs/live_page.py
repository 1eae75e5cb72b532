"""The page of a run that another process carries on, kept up to date until the run ends."""

from __future__ import annotations

import time
from pathlib import Path

from understudy.report.page import write_report
from understudy.report.unfinished import read_unfinished, write_unfinished
from understudy.runs.folder import RunFolder
from understudy.utils.lock import is_held

__all__ = ["REFRESH_SECONDS", "keep_page"]

REFRESH_SECONDS = 5  # between two writings, and after which a browser loads the page anew
GRACE_SECONDS = 3.0  # for a run that has just begun, and holds its folder in a moment


def keep_page(run: RunFolder, out: Path | None = None, *, every: float = REFRESH_SECONDS) -> bool:
    """Write the page again and again while the run goes on, and once more when it ends; whether it came to its end.

    A browser that shows it loads it anew by itself, until the last one: that of the finished run, or of what there was
    when the run, or the caller by Ctrl-C, stopped.

    Args:
        run: which is read alone.
        out: as in `write_report`.
        every: seconds between two writings.
    """
    began = time.monotonic()
    try:
        while not run.is_finished:
            is_running = is_held(run.path)
            if is_running is False and time.monotonic() - began > GRACE_SECONDS and not run.is_finished:
                break
            _write(run, out, is_running=is_running, refresh_seconds=max(1, round(every)))
            time.sleep(every)
    except KeyboardInterrupt:
        _write(run, out, is_running=is_held(run.path))
        raise
    if not run.is_finished:
        _write(run, out, is_running=False)
        return False
    while is_held(run.path):  # it writes its own page in a moment
        time.sleep(0.1)
    write_report(run.path, out)
    return True


def _write(run: RunFolder, out: Path | None, *, is_running: bool | None, refresh_seconds: int | None = None) -> None:
    target = run.report_file if out is None else out / "report.html" if out.is_dir() else out
    # Under a name of its own first: the run may be writing its page at this moment.
    beside = target.with_name(f".{target.name}.live")
    found = read_unfinished(run.path, is_running=is_running)
    write_unfinished(found, run.path, beside, refresh_seconds=refresh_seconds)
    beside.replace(target)
