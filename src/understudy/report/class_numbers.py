"""Accuracy of every class in numbers: teacher, student alone, and what distilling changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.analysis import per_class_accuracy
from understudy.report.formatting import decimal
from understudy.report.page_table import PageTable, plain_table
from understudy.report.run_data import RunData
from understudy.report.table import Cell, Column, Line, Table
from understudy.results.schema import ALONE

__all__ = ["class_table"]

_MOST_CLASSES = 1_000  # lines of a table that anybody scrolls


def class_table(run: RunData, row: str) -> PageTable | None:
    """A line for each class that has images; None of other tasks, or of more than 1,000 classes."""
    predictions, data = run.predictions, run.results.data
    if predictions is None or row not in predictions.rows or data.num_classes > _MOST_CLASSES:
        return None

    def by_class(said: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return per_class_accuracy(said, predictions.labels, num_classes=data.num_classes)

    def of_row(name: str) -> npt.NDArray[np.float64] | None:
        return (
            np.mean([by_class(said) for said in predictions.rows[name]], axis=0) if name in predictions.rows else None
        )

    counts = np.bincount(predictions.labels, minlength=data.num_classes)
    teacher = None if predictions.teacher is None else by_class(predictions.teacher)
    alone, student = of_row(ALONE) if row != ALONE else None, of_row(row)
    assert student is not None
    change = None if alone is None else student - alone
    columns = (
        Column("class", "class"),
        Column("images", "images"),
        Column("teacher", "teacher", "%"),
        Column("alone", ALONE, "%"),
        Column("student", row, "%"),
        Column("change", "change", f"{row} minus {ALONE}"),
    )
    lines = [
        Line(
            (
                Cell(data.class_name(i), data.class_name(i)),
                Cell(f"{counts[i]:,}", int(counts[i])),
                *(_percent(values, i) for values in (teacher, alone, student)),
                _percent(change, i, signed=True),
            )
        )
        for i in np.flatnonzero(counts).tolist()
    ]
    empty = [column.key for i, column in enumerate(columns) if all(line.cells[i].value is None for line in lines)]
    return plain_table(Table(columns, tuple(lines)).without(empty), [])


def _percent(values: npt.NDArray[np.float64] | None, place: int, *, signed: bool = False) -> Cell:
    if values is None:
        return Cell()
    value = float(values[place])
    sign = "+" if signed and round(value, 1) > 0 else ""
    return Cell(f"{sign}{decimal(value)}", value)
