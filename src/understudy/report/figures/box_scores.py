"""Average precision class by class, and by the size of the objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from understudy.report.boxes import class_precisions, num_by_size
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
from understudy.results.schema import ALONE, Results, Row

__all__ = ["ap_plot", "size_plot"]

Values = npt.NDArray[np.float64]

_MOST_CLASSES = 20  # more do not fit a screen; those with the largest gaps are shown
_SIZES = ("small", "medium", "large")
_HOLLOW: Any = {"markersize": 6, "markerfacecolor": "white", "markeredgecolor": TEACHER_COLOR, "linestyle": "none"}
_TICK: Any = {"markersize": 9, "markeredgewidth": 2, "linestyle": "none"}
_FILLED: Any = {"markersize": 7.5, "markeredgecolor": "white", "linestyle": "none"}


@register_figure("aps", place=52)
def ap_plot(run: RunData) -> Plot | None:
    """AP of each class: the best row's student, the student alone, and the teacher where it was scored."""
    best = run.results.best_row
    if run.results.task != "detection" or best is None:
        return None
    precisions = class_precisions(run, [row for row in run.results.rows if row.name in (best.name, ALONE)])
    if best.name not in precisions:
        return None
    data, student, teacher = run.results.data, precisions[best.name], precisions.get("/teacher")
    gaps = student if teacher is None else student - teacher
    known = [int(number) for number in np.flatnonzero(np.isfinite(gaps))]
    widest = sorted(known, key=lambda number: -abs(gaps[number]))[:_MOST_CLASSES]
    shown = sorted(widest, key=lambda number: (-gaps[number], number))
    if not shown:
        return None
    figure = new_figure(1.2 + 0.27 * len(shown))
    axes = figure.add_subplot()
    _mark(axes, run.results, best, precisions, shown)
    finish_rows(axes, [data.class_name(number) for number in shown], f"points of AP on {images_of(run.results)}")
    within_percent(axes)
    figure.legend(loc="outside lower center", ncols=legend_columns(3))
    part = f" ({len(shown)} of {data.num_classes} classes, those with the widest gaps)" * (len(shown) < len(known))
    beside = "" if teacher is None else "; the longer the line, the further student and teacher are apart"
    beside += "; the grey tick is the student alone" * (best.name != ALONE and ALONE in precisions)
    text = f"Average precision of each class, over overlaps from 0.50 to 0.95{beside}{part}."
    return Plot("aps", f"Class by class: {best.name}{'' if teacher is None else ' and the teacher'}", text, figure)


def _mark(axes: Axes, results: Results, best: Row, precisions: dict[str, Values], shown: list[int]) -> None:
    student, teacher, alone = (precisions.get(name) for name in (best.name, "/teacher", ALONE))
    assert student is not None
    y = np.arange(len(shown))
    told = [f"{results.data.class_name(i)}: student {student[i]:.1f}" for i in shown]
    if teacher is not None:
        axes.hlines(y, teacher[shown], student[shown], color="#c9cdd4", linewidth=2.5, zorder=1)
        axes.plot(teacher[shown], y, "D", **_HOLLOW, label="teacher")
        told = [f"{text}, teacher {teacher[i]:.1f}" for text, i in zip(told, shown, strict=True)]
    style = looks([row.name for row in results.rows])
    if alone is not None and best.name != ALONE:
        axes.plot(alone[shown], y, "|", **_TICK, color=style[ALONE].color, label="student alone")
        told = [f"{text}, alone {alone[i]:.1f}" for text, i in zip(told, shown, strict=True)]
    color = style[best.name].color
    axes.plot(student[shown], y, "o", **_FILLED, color=color, label=shortened(f"student, {best.name}"))
    hover_points(axes, student[shown].tolist(), y.tolist(), told)


@register_figure("sizes", place=53)
def size_plot(run: RunData) -> Plot | None:
    """AP of small, medium and large objects, for each row and the teacher."""
    results = run.results
    if results.task != "detection":
        return None
    by_row = {row.name: _by_size(row, results.split) for row in results.rows}
    shown = [size for size in _SIZES if any(size in found for found in by_row.values())]
    if len(shown) < 2:  # of one size alone it says what the table says
        return None
    figure = new_figure(1.5 + 0.5 * len(shown))
    axes = figure.add_subplot()
    _mark_sizes(axes, results, by_row, shown)
    counts = num_by_size(run)
    names = [f"{size}{f' ({counts[size]:,})' if size in counts else ''}" for size in shown]
    finish_rows(axes, names, f"points of AP on {images_of(results)}")
    within_percent(axes)
    figure.legend(loc="outside lower center", ncols=legend_columns(4))
    text = (
        "Average precision by the object's area in pixels of the file, with the number of boxes: small is below "
        "32 × 32, large from 96 × 96 on, as COCO has it."
    )
    return Plot("sizes", "Small and large objects", text, figure)


def _mark_sizes(axes: Axes, results: Results, by_row: dict[str, dict[str, float]], shown: list[str]) -> None:
    """A mark for each row and size; those of a size stand one below the other, lest they hide each other."""
    if (teacher := _teacher_scores(results)) is not None:
        there = [(teacher[f"ap_{size}"], y) for y, size in enumerate(shown) if f"ap_{size}" in teacher]
        axes.plot([x for x, _ in there], [y for _, y in there], "D", **_HOLLOW, label="teacher")
    style = looks(list(by_row))
    offsets = np.linspace(-0.25, 0.25, len(by_row)) if len(by_row) > 1 else np.zeros(1)
    for offset, (name, found) in zip(offsets.tolist(), by_row.items(), strict=True):
        points = [(found[size], place + offset) for place, size in enumerate(shown) if size in found]
        x, y, look = [point[0] for point in points], [point[1] for point in points], style[name]
        axes.plot(x, y, look.marker, **{**_FILLED, "markersize": 6}, color=look.color, label=shortened(name))
        hover_points(axes, x, y, [f"{name}: {value:.1f}" for value in x])


def _teacher_scores(results: Results) -> dict[str, float] | None:
    if results.teacher is None:
        return None
    scored = results.teacher.test if results.split == "test" else results.teacher.val
    return None if scored is None else scored.scores


def _by_size(row: Row, split: str) -> dict[str, float]:
    scores = row.summary.test if split == "test" else row.summary.scores
    means = {size: scores[f"ap_{size}"].mean for size in _SIZES if f"ap_{size}" in scores}
    return {size: mean for size, mean in means.items() if np.isfinite(mean)}
