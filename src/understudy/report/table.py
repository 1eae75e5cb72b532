"""The comparison table: what was measured, by row, with the notes that keep it honest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from understudy.analysis import Summary
from understudy.report.formatting import ABSENT, compact, decimal, loss, score, score_spread, spread
from understudy.report.run_data import Speed, Timing
from understudy.report.sentences import basis_sentence, best_epoch_sentence, changed_sentence, published_sentence
from understudy.results.schema import Results, Row, Scores
from understudy.tasks import Metric
from understudy.utils.text import two_digits

__all__ = ["BESIDE", "Cell", "Column", "Line", "Table", "comparison_table"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: `key` names it in a CSV, `title` and `note` are its two lines of heading."""

    key: str
    title: str
    note: str = ""
    is_optional: bool = False  # a narrow terminal may leave it out
    better: Literal["high", "low", ""] = ""  # which end is the better one, where there is one


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


BESIDE = {"ap": ("ap50", "ap75")}  # metrics that papers quote beside a headline, and so does the table
ENOUGH_SEEDS = 5  # from which on intervals are told without a warning of their own


def _columns(metric: Metric, epoch: str, beside: Sequence[Metric]) -> tuple[Column, ...]:
    """All columns that there can be, of a run whose rows are compared by this metric, at this epoch."""
    name, title, unit = metric.name, metric.title, metric.unit
    way: Literal["high", "low"] = "high" if metric.higher_is_better else "low"
    return (
        Column("row", "row"),
        Column(f"test_{name}", f"test {title}", _listed(unit, epoch), better=way),
        Column(name, title, _listed(unit, epoch), better=way),
        *[Column(one.name, one.title, one.unit, better=way) for one in beside],
        Column("published", "published", _listed(title, unit)),
        Column(f"raw_{name}", "not averaged", _listed(unit, "last epoch"), better=way),
        Column(f"last_{name}", "last", "epoch", better=way),
        Column(f"best_{name}", "best", "epoch", better=way),
        Column("agreement", "agrees with", "the teacher, %", better="high"),
        Column("task_loss", "task loss", "(train)", better="low"),
        Column("kl_to_teacher", "KL to teacher", "(T=4, train)", better="low"),
        Column("parameters", "parameters", is_optional=True),
        Column("macs", "MACs", "an image", is_optional=True),
        Column("images_per_second", "images/s", "this machine", is_optional=True),
    )


def _listed(*words: str) -> str:
    return ", ".join(word for word in words if word)


def comparison_table(results: Results, timing: Timing | None = None) -> Table:
    """One line for the teacher, one for each row; columns in which nothing was measured are left out.

    Scores are in their metric's unit and agreement is percent, at the epoch that the heading names; losses are nats on
    training batches, KL is from student to teacher at T = 4, MACs are of one image.

    Args:
        results: what results.json holds.
        timing: measured speeds; None leaves out that column.
    """
    timing = timing or Timing()
    best = results.best_row
    name = results.metric.name
    beside = [metric for metric in results.metrics if metric.name in BESIDE.get(name, ())]
    lines = [Line(cells, "teacher") for cells in _teachers_cells(results, timing, beside)]
    for row in results.rows:
        is_best = len(results.rows) > 1 and row is best
        lines.append(Line(_row_cells(row, results.metric, timing, beside), "best" if is_best else "row"))
    columns = _columns(results.metric, results.epoch_words, beside)
    empty = [
        column.key
        for i, column in enumerate(columns)
        if column.key != name and all(line.cells[i].value is None for line in lines if line.kind != "teacher")
    ]
    already_shown = [f"last_{name}"] if results.select_on == "last" else []
    already_shown += ["published"] if results.published else []  # below, with every source
    if results.split == "test" and results.data.val_origin == "test split":
        already_shown.append(name)  # test and validation are the same images
    return Table(columns, tuple(lines), tuple(_notes(results))).without([*empty, *already_shown])


def _row_cells(row: Row, metric: Metric, timing: Timing, beside: Sequence[Metric]) -> tuple[Cell, ...]:
    summary, name = row.summary, metric.name
    return (
        Cell(row.name, row.name),
        _spread(summary.test.get(name), metric),
        _spread(summary.scores.get(name), metric),
        *[_spread(summary.scores.get(one.name), one) for one in beside],
        _published(row, name),
        _mean(summary.raw.get(name), metric),
        _mean(summary.last.get(name), metric),
        _mean(summary.best.get(name), metric),
        _percent(summary.agreement),
        _loss(summary.task_loss),
        _loss(summary.kl_to_teacher),
        _count(row.student.parameters),
        _count(row.student.macs),
        _speed(timing.measured(row.student.model, "student")),
    )


def _teachers_cells(results: Results, timing: Timing, beside: Sequence[Metric]) -> Iterator[tuple[Cell, ...]]:
    teacher, metric = results.teacher, results.metric
    if teacher is None:
        return

    def reached(scores: Scores | None, metric: Metric = metric) -> Cell:
        found = None if scores is None else scores.scores.get(metric.name)
        return Cell() if found is None else Cell(score(found, metric), found)

    unknown = [Cell()] * 7  # its best epoch is not known, and it agrees with itself
    size = _count(teacher.parameters), _count(teacher.macs), _speed(timing.measured(teacher.model, "teacher"))
    scored = [("teacher", teacher.test, teacher.val, size)]
    scored += [(f"teacher of {one.head}", one.test, one.val, (Cell(), Cell(), Cell())) for one in teacher.also]
    for name, test, val, costs in scored:
        yield (
            Cell(name, name), reached(test), reached(val), *[reached(val, one) for one in beside], *unknown, *costs
        )  # fmt: skip


def _notes(results: Results) -> Iterator[str]:
    yield basis_sentence(results)
    if any(results.metric.name in row.summary.best for row in results.rows):
        yield best_epoch_sentence(results)
    if results.task == "detection" and any(row.summary.agreement for row in results.rows):
        yield (
            "A row agrees with the teacher on the share of the boxes that the teacher finds which it finds, too: at an "
            "overlap of 0.5, by detections from the score on where the model's F1 is best."
        )
    if any(row.summary.kl_to_teacher for row in results.rows):
        yield (
            "Task loss and KL to the teacher are one yardstick for every row: measured on training batches in the "
            "last epoch, in nats; the KL at T = 4, for rows that never saw it too."
        )
    if any(1 < comparison.num_seeds < ENOUGH_SEEDS for comparison in results.comparisons):
        yield (
            f"Intervals draw images and seeds anew; {len(results.seeds)} seeds show little of how far seeds spread, so "
            f"these are on the narrow side (--seeds {ENOUGH_SEEDS})."
        )
    if results.published:
        yield published_sentence(results)
    elif sources := sorted({source.cited for row in results.rows for source in row.published}):
        yield f"Published: what papers report for a row's settings ({'; '.join(sources)})."
    if results.changed:
        yield changed_sentence(results)


def _mean(summary: Summary | None, metric: Metric) -> Cell:
    return Cell(score(summary.mean, metric), summary.mean, summary.std) if summary else Cell()


def _spread(summary: Summary | None, metric: Metric) -> Cell:
    return Cell(score_spread(summary, metric), summary.mean, summary.std) if summary else Cell()


def _percent(summary: Summary | None) -> Cell:
    return Cell(spread(summary), summary.mean, summary.std) if summary else Cell()


def _published(row: Row, metric: str) -> Cell:
    found = row.published[0].scores.get(metric) if row.published else None
    return Cell() if found is None else Cell(decimal(found, 2), found)


def _loss(summary: Summary | None) -> Cell:
    return Cell(loss(summary.mean), summary.mean, summary.std) if summary else Cell()


def _count(value: int | None) -> Cell:
    return Cell(compact(value), value)


def _speed(measured: Speed | None) -> Cell:
    """'2,600 (1,500–2,700)': two digits, since repeated measurements differ in the second already."""
    if measured is None or not measured.images_per_second:
        return Cell()
    text = two_digits(measured.images_per_second)
    if measured.lowest and measured.highest:
        text += f" ({two_digits(measured.lowest)}–{two_digits(measured.highest)})"
    return Cell(text, measured.images_per_second)
