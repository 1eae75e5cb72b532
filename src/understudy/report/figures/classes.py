"""Accuracy class by class: the best row's student against the teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.analysis import per_class_accuracy
from understudy.report.figures.base import register_figure
from understudy.report.figures.hover import hover_points
from understudy.report.figures.rows import finish_rows, images_of, within_percent
from understudy.report.figures.style import (
    TEACHER_COLOR,
    Plot,
    legend_columns,
    looks,
    new_figure,
    shortened,
)
from understudy.report.run_data import RunData
from understudy.results.schema import ALONE

__all__ = ["class_plot"]


_MOST_CLASSES = 20  # more do not fit a screen; those with the largest gaps are shown


@register_figure("classes", place=50)
def class_plot(run: RunData) -> Plot | None:
    """Accuracy of each class: the best row's student against the teacher."""
    predictions, best = run.predictions, run.results.best_row
    if predictions is None or predictions.teacher is None or best is None or best.name not in predictions.rows:
        return None
    data = run.results.data

    def by_class(said: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return per_class_accuracy(said, predictions.labels, num_classes=data.num_classes)

    teacher = by_class(predictions.teacher)
    student = np.mean([by_class(said) for said in predictions.rows[best.name]], axis=0)
    shown = _widest_gaps(student - teacher)
    color = looks([row.name for row in run.results.rows])[best.name].color
    figure = new_figure(1.2 + 0.27 * len(shown))
    axes = figure.add_subplot()
    y = np.arange(len(shown))
    axes.hlines(y, teacher[shown], student[shown], color="#c9cdd4", linewidth=2.5, zorder=1)
    hollow: Any = {"markersize": 6, "markerfacecolor": "white", "markeredgecolor": TEACHER_COLOR}
    axes.plot(teacher[shown], y, "D", **hollow, linestyle="none", label="teacher")
    alone = predictions.rows.get(ALONE) if best.name != ALONE else None
    if alone is not None:
        undistilled = np.mean([by_class(said) for said in alone], axis=0)
        tick: Any = {"markersize": 9, "markeredgewidth": 2, "color": looks([ALONE])[ALONE].color}
        axes.plot(undistilled[shown], y, "|", **tick, linestyle="none", label="student alone")
    filled: Any = {"markersize": 7.5, "color": color, "markeredgecolor": "white"}
    axes.plot(student[shown], y, "o", **filled, linestyle="none", label=shortened(f"student, {best.name}"))
    told = [f"{data.class_name(i)}: student {student[i]:.1f} %, teacher {teacher[i]:.1f} %" for i in shown]
    hover_points(axes, student[shown].tolist(), y.tolist(), told)
    finish_rows(axes, [data.class_name(number) for number in shown], f"accuracy on {images_of(run.results)}, %")
    within_percent(axes)
    figure.legend(loc="outside lower center", ncols=legend_columns(3))
    part = f" ({len(shown)} of {data.num_classes} classes, those with the widest gaps)"
    beside = "; the grey tick is the student alone, so that what lies between it and the dot is what distilling changed"
    beside = "" if alone is None else beside
    reading = "The longer the line, the further student and teacher are apart on that class"
    text = f"{reading}{beside}; sorted by the student's lead{part if len(shown) < data.num_classes else ''}."
    return Plot("classes", f"Class by class: {best.name} and the teacher", text, figure)


def _widest_gaps(gaps: npt.NDArray[np.float64]) -> list[int]:
    """Classes to show, those with images, the student's best lead first."""
    known = [int(number) for number in np.flatnonzero(np.isfinite(gaps))]
    widest = sorted(known, key=lambda number: -abs(gaps[number]))[:_MOST_CLASSES]
    return sorted(widest, key=lambda number: (-gaps[number], number))
