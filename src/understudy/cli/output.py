"""The outcome of a run on the terminal: its table, what it says in sentences, where its page is."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from understudy.report import (
    ALONE,
    FORMATS,
    comparison_table,
    headline,
    pair_sentences,
    read_results,
    read_timing,
    render,
    rich_table,
    row_sentence,
)
from understudy.runs.folder import RunFolder
from understudy.utils.errors import UserError, unknown_name

__all__ = ["check_format", "print_outcome"]

UNWRAPPED_COLUMNS = 240


def check_format(format: str) -> None:
    """Refuse a --format that there is not."""
    known = ["text", *FORMATS]
    if format not in known:
        raise UserError(f"--format {format!r} is {unknown_name(format, known)}")


def print_outcome(run: RunFolder, *, format: str = "text") -> None:
    """Print a finished run's table, then its sentences; a format other than text leaves the table alone on stdout."""
    results, timing = read_results(run.path), read_timing(run.timing_file)
    table = comparison_table(results, timing)
    if format != "text":
        typer.echo(render(table, format), nl=False)
        typer.echo(f"{headline(results)}\nPage: {run.report_file}", err=True)  # a pipe gets the table alone
        return
    # Without a terminal nothing tells the width: nothing is cut, nothing is wrapped.
    has_width = sys.stdout.isatty()
    console = Console(highlight=False, soft_wrap=not has_width, width=None if has_width else UNWRAPPED_COLUMNS)
    console.print(rich_table(table, width=console.width if has_width else None))
    for note in table.notes:
        console.print(note, style="dim", markup=False)
    best = results.best_row
    typer.echo(headline(results) if best is None else row_sentence(results, best, timing))
    for row in results.rows:
        if best is not None and row.name not in (best.name, ALONE) and results.comparison(row.name, ALONE) is not None:
            typer.echo(row_sentence(results, row))
    for sentence in pair_sentences(results):
        typer.echo(sentence)
    typer.echo(f"Page: {run.report_file}")
