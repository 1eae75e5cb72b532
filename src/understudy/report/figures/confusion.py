"""Which classes are taken for which: the best row's student beside the teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from understudy.analysis import confusion
from understudy.report.figures.base import register_figure
from understudy.report.figures.hover import hover_points
from understudy.report.figures.style import Plot, add_panels, is_narrow, new_figure, shortened
from understudy.report.run_data import RunData

__all__ = ["confusion_plot"]

_MOST_CLASSES = 20  # more cells than 400 tell nobody anything
_MOST_COUNTED = 2_000  # classes, beyond which the whole matrix is not made: 32 MB
_FEWEST_WRITTEN = 0.5  # percent from which a cell says its number
_MOST_WRITTEN = 12  # classes, up to which cells have room for one
_RIGHT, _WRONG = (0, 114 / 255, 178 / 255), (213 / 255, 94 / 255, 0)

Floats = npt.NDArray[np.float64]


@register_figure("confusion", place=52)
def confusion_plot(run: RunData) -> Plot | None:
    """Shares of each class's images that are taken for each class, in percent."""
    predictions, best, data = run.predictions, run.results.best_row, run.results.data
    if (
        predictions is None
        or best is None
        or best.name not in predictions.rows
        or not 2 <= data.num_classes <= _MOST_COUNTED
    ):
        return None

    def shares(said: npt.NDArray[Any]) -> Floats:
        kept = said >= 0  # an output that is no number is taken for no class
        counts = confusion(said[kept], predictions.labels[kept], num_classes=data.num_classes)
        return np.asarray(100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))

    tables = {f"student, {best.name}": np.mean([shares(said) for said in predictions.rows[best.name]], axis=0)}
    if predictions.teacher is not None:
        tables["teacher"] = shares(predictions.teacher)
    shown = _most_confused(tables[f"student, {best.name}"], np.bincount(predictions.labels, minlength=data.num_classes))
    if len(shown) < 2:
        return None
    names = [data.class_name(number) for number in shown]
    figure = new_figure((3.9 if is_narrow() else 1.9 + 0.2 * len(shown)) + (0.05 * max(map(len, names))))
    for axes, (title, table) in zip(add_panels(figure, len(tables)), tables.items(), strict=True):
        _draw(axes, table[np.ix_(shown, shown)], names)
        axes.set_title(title, pad=8)
    part = (
        f" The {len(shown)} of {data.num_classes} classes that are confused most."
        if len(shown) < data.num_classes
        else ""
    )
    beside = " What only the student's side shows was lost in distillation." if len(tables) > 1 else ""
    text = (
        "A line is a class, a column what its images are taken for, in % of the class: the blue diagonal is right, the "
        f"darker an orange cell, the more often one is mistaken for the other.{beside}{part}"
    )
    return Plot("confusion", "Which classes are taken for which", text, figure)


def _most_confused(shares: Floats, counts: npt.NDArray[Any]) -> list[int]:
    """Classes with images, the most mistaken ones where there are too many, in the order of their numbers."""
    known = [int(number) for number in np.flatnonzero(counts)]
    if len(known) <= _MOST_CLASSES:
        return known
    wrong = shares * counts[:, None]
    np.fill_diagonal(wrong, 0)
    involved = wrong.sum(axis=0) + wrong.sum(axis=1)
    return sorted(sorted(known, key=lambda number: -involved[number])[:_MOST_CLASSES])


def _draw(axes: Axes, shares: Floats, names: list[str]) -> None:
    number = len(names)
    off = shares[~np.eye(number, dtype=bool)]
    strongest = max(float(off.max()), 1.0)
    squares, colors, told = [], [], []
    for i, j in zip(*np.nonzero(shares), strict=True):
        share = float(shares[i, j])
        squares.append([(j - 0.5, i - 0.5), (j + 0.5, i - 0.5), (j + 0.5, i + 0.5), (j - 0.5, i + 0.5)])
        colors.append((*_RIGHT, 0.12 + 0.5 * share / 100) if i == j else (*_WRONG, 0.1 + 0.75 * share / strongest))
        told.append((float(j), float(i), f"{names[i]} is taken for {names[j]}: {share:.1f} %"))
        if number <= _MOST_WRITTEN and share >= _FEWEST_WRITTEN:
            axes.text(j, i, f"{share:.0f}", ha="center", va="center", fontsize=6 if is_narrow() else 8)
    axes.add_collection(PolyCollection(squares, facecolors=colors, edgecolors="none"))
    hover_points(axes, [x for x, _, _ in told], [y for _, y, _ in told], [words for _, _, words in told])
    short = [shortened(name, 18) for name in names]
    axes.set_xticks(range(number), short, rotation=90 if max(map(len, short)) > 2 else 0)
    axes.set_yticks(range(number), short)
    axes.set_xlim(-0.5, number - 0.5)
    axes.set_ylim(number - 0.5, -0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
