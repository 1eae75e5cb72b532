"""Whether teacher and students are as often right as they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.analysis import Calibration, reliability
from understudy.report.figures.base import Lacking, register_figure
from understudy.report.figures.style import TEACHER_COLOR, Plot, is_narrow, looks, new_figure, shortened
from understudy.report.run_data import RunData
from understudy.results.schema import ALONE

__all__ = ["calibration_plot"]

_BINS = 10
_FEWEST_IMAGES = 8  # of a bin that is drawn: of fewer, the share that is right says little
_MOST_ROWS = 6
_TITLE = "Whether they are as often right as they say"


@register_figure("calibration", place=56)
def calibration_plot(run: RunData) -> Plot | Lacking | None:
    """Share of right answers against confidence (reliability diagram), and the expected calibration error."""
    predictions, certainty, results = run.predictions, run.certainty, run.results
    if predictions is None:
        return None
    if certainty is None or not certainty.rows:
        why = "This run kept no confidences: a run that is trained by this version keeps them by itself (--overwrite)."
        return Lacking("calibration", _TITLE, why)
    names = [name for name in certainty.rows if name in predictions.rows]
    if len(names) > _MOST_ROWS:
        best = results.best_row
        names = [name for name in names if name == ALONE or (best is not None and name == best.name)]
    style = looks([row.name for row in results.rows])
    figure = new_figure(4.0)
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color="#b6bac2", linewidth=1.2, zorder=1)
    if certainty.teacher and predictions.teacher is not None:
        found = _found(certainty.teacher, predictions.teacher == predictions.labels)
        if found is not None:
            x, y = _drawn(found)
            axes.plot(
                x, y, color=TEACHER_COLOR, linestyle="dashed", marker="D", markersize=4, label=_label("teacher", found)
            )
    for name in names:
        found = _found(certainty.rows[name], predictions.rows[name] == predictions.labels)
        if found is not None:
            x, y = _drawn(found)
            look = style[name]
            axes.plot(
                x, y, color=look.color, linestyle=look.dash, marker=look.marker, markersize=5, label=_label(name, found)
            )
    axes.set_xlabel("confidence, %")
    axes.set_ylabel("right, %")
    axes.set_xlim(-1, 101)
    axes.set_ylim(-1, 103)
    figure.legend(loc="outside lower center", ncols=1 if is_narrow() else 3)
    text = (
        "On the grey diagonal one is right as often as one says; below it one says too much. The number is the "
        f"expected calibration error in points (ECE, {_BINS} bins): the smaller, the better."
    )
    return Plot("calibration", _TITLE, text, figure)


def _found(known: Any, is_right: npt.NDArray[Any]) -> Calibration | None:
    """Over the images of all seeds whose output is a number."""
    sure, likely, right = known["confidence"].ravel(), known["label_probability"].ravel(), is_right.ravel()
    kept = np.isfinite(sure) & np.isfinite(likely)
    if not kept.any():
        return None
    return reliability(np.minimum(sure[kept], 1), right[kept], np.minimum(likely[kept], 1), num_bins=_BINS)


def _drawn(found: Calibration) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    kept = found.counts >= min(_FEWEST_IMAGES, int(found.counts.max()))
    return found.confidence[kept], found.accuracy[kept]


def _label(name: str, found: Calibration) -> str:
    return f"{shortened(name)}: {found.error:.1f}"
