"""Accuracy or AP of every class in numbers: teacher, student alone, and what distilling changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.analysis import per_class_accuracy
from understudy.report.boxes import class_precisions, num_boxes
from understudy.report.formatting import decimal
from understudy.report.page_table import PageTable, plain_table
from understudy.report.run_data import RunData
from understudy.report.table import Cell, Column, Line, Table
from understudy.results.schema import ALONE

__all__ = ["class_table"]

_MOST_CLASSES = 1_000  # lines of a table that anybody scrolls


@dataclass(frozen=True, slots=True)
class _ByClass:
    """A score of each class, of the row that is looked at and of those beside it."""

    counts: npt.NDArray[Any]  # (C,) of what it is over
    counted: str  # what that is: images, boxes
    unit: str
    student: npt.NDArray[np.float64]
    alone: npt.NDArray[np.float64] | None
    teacher: npt.NDArray[np.float64] | None


def class_table(run: RunData, row: str) -> PageTable | None:
    """A line for each class that has images or boxes; None where that is not known, or of more than 1,000 classes."""
    data = run.results.data
    if data.num_classes > _MOST_CLASSES:
        return None
    found = _precisions(run, row) if run.results.task == "detection" else _accuracies(run, row)
    if found is None:
        return None
    change = None if found.alone is None else found.student - found.alone
    columns = (
        Column("class", "class"),
        Column(found.counted, found.counted),
        Column("teacher", "teacher", found.unit),
        Column("alone", ALONE, found.unit),
        Column("student", row, found.unit),
        Column("change", "change", f"{row} minus {ALONE}"),
    )
    lines = [
        Line(
            (
                Cell(data.class_name(i), data.class_name(i)),
                Cell(f"{found.counts[i]:,}", int(found.counts[i])),
                *(_percent(values, i) for values in (found.teacher, found.alone, found.student)),
                _percent(change, i, signed=True),
            )
        )
        for i in np.flatnonzero(found.counts).tolist()
    ]
    empty = [column.key for i, column in enumerate(columns) if all(line.cells[i].value is None for line in lines)]
    return plain_table(Table(columns, tuple(lines)).without(empty), [])


def _accuracies(run: RunData, row: str) -> _ByClass | None:
    predictions, num_classes = run.predictions, run.results.data.num_classes
    if predictions is None or row not in predictions.rows:
        return None

    def by_class(said: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return per_class_accuracy(said, predictions.labels, num_classes=num_classes)

    def of_row(name: str) -> npt.NDArray[np.float64]:
        return np.asarray(np.mean([by_class(said) for said in predictions.rows[name]], axis=0))

    return _ByClass(
        counts=np.bincount(predictions.labels, minlength=num_classes),
        counted="images",
        unit="%",
        student=of_row(row),
        alone=of_row(ALONE) if row != ALONE and ALONE in predictions.rows else None,
        teacher=None if predictions.teacher is None else by_class(predictions.teacher),
    )


def _precisions(run: RunData, row: str) -> _ByClass | None:
    found = class_precisions(run, [one for one in run.results.rows if one.name in (row, ALONE)])
    counts = num_boxes(run)
    if row not in found or counts is None:
        return None
    alone = found.get(ALONE) if row != ALONE else None
    return _ByClass(counts, "boxes", "points of AP", found[row], alone, found.get("/teacher"))


def _percent(values: npt.NDArray[np.float64] | None, place: int, *, signed: bool = False) -> Cell:
    if values is None:
        return Cell()
    value = float(values[place])
    sign = "+" if signed and round(value, 1) > 0 else ""
    return Cell(f"{sign}{decimal(value)}", value)
