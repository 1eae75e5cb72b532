"""What is printed for people: the outcome of a run, what there is of an unfinished one, text that fits the terminal."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from understudy.utils.errors import UserError, unknown_name
from understudy.utils.text import wrapped

if TYPE_CHECKING:
    from rich.console import Console

    from understudy.report import Results, Table, Timing
    from understudy.runs.folder import RunFolder

__all__ = ["check_format", "columns", "echo", "print_outcome", "print_table", "print_unfinished"]

UNWRAPPED_COLUMNS = 240
WARNING_STYLE = "bold yellow"


def echo(text: str, *, err: bool = False, hang: int = 0) -> None:
    """Print text, broken between words where a terminal is narrower than its lines; elsewhere as it is.

    Args:
        text: for people.
        err: to stderr.
        hang: columns that a broken line goes on at.
    """
    typer.echo(wrapped(text, columns(err=err), hang=hang), err=err)


def columns(*, err: bool = False) -> int | None:
    """Of the terminal that stdout or stderr is; None where it is none."""
    return shutil.get_terminal_size().columns if (sys.stderr if err else sys.stdout).isatty() else None


def check_format(format: str) -> None:
    """Refuse a --format that there is not."""
    from understudy.report import FORMATS

    known = ["text", *FORMATS]
    if format not in known:
        raise UserError(f"--format {format!r} is {unknown_name(format, known)}")


def print_outcome(run: RunFolder, *, format: str = "text", page: Path | None = None) -> None:
    """Print a finished run's table, then its sentences; a format other than text leaves the table alone on stdout.

    Args:
        run: which has its results.
        format: of the table.
        page: where its page lies; None: in the run folder.
    """
    from understudy.report import (
        comparison_table,
        guessing_rows,
        headline,
        read_results,
        read_timing,
        render,
        start_sentence,
        style_of_start,
    )

    results, timing = read_results(run.path), read_timing(run.timing_file)
    table = comparison_table(results, timing)
    if format != "text":
        typer.echo(render(table, format), nl=False)
        echo(f"{headline(results)}\nPage: {page or run.report_file}", err=True)  # a pipe gets the table alone
        return
    print_table(table)
    for row in results.rows:
        if not math.isfinite(results.score(row).mean):
            _console()[0].print(
                f"warning  {row.name} came to no number: a loss is NaN or infinite", style=WARNING_STYLE
            )
    for sentence in guessing_rows(results):
        _console()[0].print(f"warning  {sentence}", style=WARNING_STYLE, markup=False)
    for sentence in _sentences(results, timing):
        echo(sentence)
    if starts := start_sentence(results):
        _console()[0].print(starts, style=style_of_start(starts), markup=False)
    echo(f"Page: {page or run.report_file}")


def print_unfinished(run: RunFolder, *, out: Path | None = None, format: str = "text") -> None:
    """Write the page of a run that is not finished, and print what there is so far, as `print_outcome` does."""
    from understudy.report import render
    from understudy.report.unfinished import read_unfinished, unfinished_table, write_unfinished
    from understudy.utils.lock import is_held

    found = read_unfinished(run.path, is_running=is_held(run.path))
    page = write_unfinished(found, run.path, out)
    table, told = unfinished_table(found), f"Unfinished: {found.sentence}\nPage: {page}"
    if format != "text":
        typer.echo(render(table, format), nl=False)
        echo(told, err=True)
        return
    if table.lines:
        print_table(table)
    echo(told)


def _console() -> tuple[Console, int | None]:
    """For stdout, with the columns of the terminal; None where nothing tells the width, and nothing is cut."""
    from rich.console import Console

    has_width = sys.stdout.isatty()
    console = Console(highlight=False, soft_wrap=not has_width, width=None if has_width else UNWRAPPED_COLUMNS)
    return console, console.width if has_width else None


def print_table(table: Table) -> None:
    """Print a table, without the columns for which a terminal has no room, and its notes."""
    from understudy.report import rich_table
    from understudy.report.table_formats import left_out

    console, width = _console()
    console.print(rich_table(table, width=width))
    for note in table.notes:
        console.print(note, style="dim", markup=False)
    if width is not None and (titles := left_out(table, width)):
        console.print(f"Left out at {width} columns: {', '.join(titles)} (--format md has them).", style="dim")


def _sentences(results: Results, timing: Timing) -> Iterator[str]:
    """The best row against the student alone, then the others, then row against row, then what they all cost."""
    from understudy.report import ALONE, cost_sentence, headline, pair_sentences, row_sentence

    best = results.best_row
    yield headline(results) if best is None else row_sentence(results, best)
    for row in results.rows:
        if best is not None and row.name not in (best.name, ALONE) and results.comparison(row.name, ALONE) is not None:
            yield row_sentence(results, row)
    yield from pair_sentences(results)
    if (cost := cost_sentence(results, timing)) is not None:
        yield cost
