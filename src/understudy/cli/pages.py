"""`understudy report`: the page of a run, of several runs, or of one that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from understudy.cli.output import echo, print_outcome, print_table, print_unfinished
from understudy.runs.folder import RunFolder
from understudy.utils.errors import UserError
from understudy.utils.untrusted import given_path

__all__ = ["report_one", "report_several"]


def report_one(run: RunFolder, *, out: Path | None, live: bool, format: str) -> None:
    """Write the page of a run, finished or not, and print what it says."""
    out = _checked(out)
    if live and not run.is_finished and not _followed(run, out):
        return
    if not run.is_finished:
        print_unfinished(run, out=out, format=format)
        return
    from understudy.report import write_report

    run.results()
    page = write_report(run.path, out)
    print_outcome(run, format=format, page=page)


def _followed(run: RunFolder, out: Path | None) -> bool:
    """Keep the page up to date; whether there is more to say than that nobody follows any more."""
    from understudy.runs.live_page import REFRESH_SECONDS, keep_page

    page = out or run.report_file
    echo(f"Page: {page} (renews itself every {REFRESH_SECONDS} s until the run ends; Ctrl-C ends the renewing alone)")
    try:
        keep_page(run, out)
    except KeyboardInterrupt:
        echo("the page is not renewed any more; the run itself goes on")
        return False
    return True


def report_several(runs: Sequence[RunFolder], *, out: Path | None, live: bool, format: str) -> None:
    """Write one page of several finished runs, and print their table.

    Raises:
        UserError: no place for the page, one that is not finished, or runs that cannot be compared.
    """
    from understudy.report import render
    from understudy.report.several import joint_table, joint_verdict, read_runs
    from understudy.report.several_page import write_runs_report

    if live:
        raise UserError("--live follows one run; give one")
    if out is None:
        raise UserError("several runs make one page; say where it goes: --out PAGE.html")
    if unfinished := [str(run.path) for run in runs if not run.is_finished]:
        raise UserError(f"not finished yet: {', '.join(unfinished)}; the command that began it goes on from there")
    folders = [run.path for run in runs]
    page = write_runs_report(folders, given_path(out, what="--out"))
    found = read_runs(folders)
    table = joint_table(found)
    if format != "text":
        typer.echo(render(table, format), nl=False)
    else:
        print_table(table)
    echo(f"{joint_verdict(found)}\nPage: {page}", err=format != "text")


def _checked(out: Path | None) -> Path | None:
    return None if out is None else given_path(out, what="--out")
