"""The comparison table: what was measured, by row, with the notes that keep it honest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from understudy.analysis import Summary
from understudy.report.formatting import ABSENT, compact, decimal, loss, spread
from understudy.report.run_data import Timing
from understudy.report.sentences import basis_sentence, best_epoch_sentence, changed_sentence, published_sentence
from understudy.results.schema import Results, Row, Scores, Teacher

__all__ = ["Cell", "Column", "Line", "Table", "comparison_table"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: `key` names it in a CSV, `title` and `note` are its two lines of heading."""

    key: str
    title: str
    note: str = ""
    is_optional: bool = False  # a narrow terminal may leave it out


@dataclass(frozen=True, slots=True)
class Cell:
    """What people read, and the numbers behind it; value and std are None where nothing was measured."""

    text: str = ABSENT
    value: float | str | None = None
    std: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One row of cells; the kind says how to set it off."""

    cells: tuple[Cell, ...]
    kind: Literal["teacher", "best", "row"] = "row"


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, lines of as many cells, and notes that belong underneath."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    def without(self, keys: Sequence[str]) -> Table:
        """The same table with fewer columns."""
        kept = [i for i, column in enumerate(self.columns) if column.key not in keys]
        lines = tuple(Line(tuple(line.cells[i] for i in kept), line.kind) for line in self.lines)
        return Table(tuple(self.columns[i] for i in kept), lines, self.notes)


_COLUMNS = (
    Column("row", "row"),
    Column("test_top1", "test top-1", "%, {epoch}"),
    Column("top1", "top-1", "%, {epoch}"),
    Column("published", "published", "top-1, %"),
    Column("raw_top1", "not averaged", "%, last epoch"),
    Column("last_top1", "last", "epoch"),
    Column("best_top1", "best", "epoch"),
    Column("agreement", "agrees with", "the teacher, %"),
    Column("task_loss", "task loss", "(train)"),
    Column("kl_to_teacher", "KL to teacher", "(T=4, train)"),
    Column("parameters", "parameters", is_optional=True),
    Column("macs", "MACs", "an image", is_optional=True),
    Column("images_per_second", "images/s", "this machine", is_optional=True),
)


def comparison_table(results: Results, timing: Timing | None = None) -> Table:
    """One line for the teacher, one for each row; columns in which nothing was measured are left out.

    Accuracies and agreement are percent at the epoch that the heading names, losses nats on training batches, KL is
    from student to teacher at T = 4, MACs are of one image.

    Args:
        results: what results.json holds.
        timing: measured speeds; None leaves out that column.
    """
    timing = timing or Timing()
    best = results.best_row
    lines = [Line(_teacher_cells(results.teacher, timing), "teacher")] if results.teacher else []
    for row in results.rows:
        is_best = len(results.rows) > 1 and row is best
        lines.append(Line(_row_cells(row, timing), "best" if is_best else "row"))
    columns = [replace(column, note=column.note.format(epoch=results.epoch_words)) for column in _COLUMNS]
    empty = [
        column.key
        for i, column in enumerate(columns)
        if column.key != "top1" and all(line.cells[i].value is None for line in lines if line.kind != "teacher")
    ]
    told_already = ["last_top1"] if results.select_on == "last" else []
    told_already += ["published"] if results.published else []  # below, with every source
    if results.split == "test" and results.data.val_origin == "test split":
        told_already.append("top1")  # test and validation are the same images
    return Table(tuple(columns), tuple(lines), tuple(_notes(results))).without([*empty, *told_already])


def _row_cells(row: Row, timing: Timing) -> tuple[Cell, ...]:
    summary = row.summary
    return (
        Cell(row.name, row.name),
        _percent(summary.test_top1),
        _percent(summary.top1),
        _published(row),
        _mean(summary.raw_top1),
        _mean(summary.last_top1),
        _mean(summary.best_top1),
        _percent(summary.agreement),
        _loss(summary.task_loss),
        _loss(summary.kl_to_teacher),
        _count(row.student.parameters),
        _count(row.student.macs),
        _speed(timing.speed_of(row.student.model, "student")),
    )


def _teacher_cells(teacher: Teacher, timing: Timing) -> tuple[Cell, ...]:
    def top1(scores: Scores | None) -> Cell:
        return Cell(decimal(scores.top1), scores.top1) if scores else Cell()

    return (
        Cell("teacher", "teacher"),
        top1(teacher.test),
        top1(teacher.val),
        *[Cell()] * 7,  # its best epoch is not known, and it agrees with itself
        _count(teacher.parameters),
        _count(teacher.macs),
        _speed(timing.speed_of(teacher.model, "teacher")),
    )


def _notes(results: Results) -> Iterator[str]:
    yield basis_sentence(results)
    if any(row.summary.best_top1 for row in results.rows):
        yield best_epoch_sentence(results)
    if any(row.summary.kl_to_teacher for row in results.rows):
        yield (
            "Task loss and KL to the teacher are one yardstick for every row: measured on training batches in the "
            "last epoch, in nats; the KL at T = 4, for rows that never saw it too."
        )
    if results.published:
        yield published_sentence(results)
    elif sources := sorted({source.source for row in results.rows for source in row.published}):
        yield f"Published: what papers report for a row's settings ({'; '.join(sources)})."
    if results.changed:
        yield changed_sentence(results)


def _mean(summary: Summary | None) -> Cell:
    return Cell(decimal(summary.mean), summary.mean, summary.std) if summary else Cell()


def _percent(summary: Summary | None) -> Cell:
    return Cell(spread(summary), summary.mean, summary.std) if summary else Cell()


def _published(row: Row) -> Cell:
    return Cell(decimal(row.published[0].top1, 2), row.published[0].top1) if row.published else Cell()


def _loss(summary: Summary | None) -> Cell:
    return Cell(loss(summary.mean), summary.mean, summary.std) if summary else Cell()


def _count(value: int | None) -> Cell:
    return Cell(compact(value), value)


def _speed(value: float | None) -> Cell:
    # three digits: repeated measurements differ in the fourth
    return Cell(f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}", value) if value else Cell()
