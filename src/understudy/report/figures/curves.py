"""Losses and the validation score by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from understudy.report.figures.base import Lacking, register_figure
from understudy.report.figures.rows import measured
from understudy.report.figures.style import (
    STYLE,
    TEACHER_COLOR,
    Plot,
    RowLook,
    add_panels,
    legend_columns,
    looks,
    new_figure,
    shortened,
)
from understudy.report.run_data import EpochRecord, RunData
from understudy.tasks import Metric

__all__ = ["curves_of", "curves_plot"]


Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # (E,) epochs, (E, S) values, NaN where one is missing


@register_figure("curves", place=10)
def curves_plot(run: RunData) -> Plot | Lacking | None:
    """Task loss, KL to the teacher and validation score by epoch: mean over seeds, lowest to highest shaded."""
    results = run.results
    rows, teacher = [row.name for row in results.rows], results.teacher
    reached = None if teacher is None or teacher.val is None else teacher.val.scores.get(results.metric.name)
    found = curves_of(run.epochs, rows, results.metric, num_seeds=len(results.seeds), teacher=reached)
    why = "The run folder has no metrics.jsonl with epochs in it; a run writes it while it trains."
    return found or Lacking("curves", "Curves", why)


@matplotlib.rc_context(STYLE)
def curves_of(
    records: Sequence[EpochRecord],
    rows: Sequence[str],
    metric: Metric,
    *,
    num_seeds: int,
    teacher: float | None = None,
) -> Plot | None:
    """The curves of these rows, finished or not, beside the teacher's score; None where nothing was measured."""
    panels = [(title, log, curves) for title, log, read in _panels(metric) if (curves := _curves(records, read))]
    if not panels:
        return None
    figure = new_figure(3.6)
    style = looks(rows)
    for axes, (title, may_be_log, curves) in zip(add_panels(figure, len(panels)), panels, strict=True):
        for row in rows:
            if row in curves:
                _draw_curve(axes, curves[row], style[row], row)
        _finish_curve_axes(axes, title, may_be_log)
        if not may_be_log:
            _look_at_the_end(axes, list(curves.values()), metric, teacher)
    handles = [_key(style[row], row) for row in rows]
    has_teacher = teacher is not None and any(not may_be_log for _, may_be_log, _ in panels)
    handles += [
        Line2D([], [], color=TEACHER_COLOR, linestyle=(0, (5, 3)), linewidth=1.2, label="teacher")
    ] * has_teacher
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(min(7, len(handles))))
    spread = "lines are means over seeds, bands reach from the lowest to the highest seed"
    higher = f", higher for {metric.word or metric.title}" if metric.higher_is_better else f" and {metric.title}"
    reading = f"Left to right, training goes on: lower is better for losses{higher}"
    return Plot("curves", "Curves", f"{reading}; {spread if num_seeds > 1 else 'one seed'}.", figure)


def _look_at_the_end(axes: Axes, curves: Sequence[Curve], metric: Metric, teacher: float | None) -> None:
    """Give the axis to where the rows differ: what the second half of the training reaches, and the teacher beside."""
    late = [np.nanmean(values[len(values) // 2 :], axis=1) for _, values in curves]
    shown = [*(float(np.median(means)) for means in late), *(means[-1] for means in late)]
    shown += [float(np.nanmax(values[-1])) for _, values in curves] + ([] if teacher is None else [teacher])
    low, high = min(shown), max(shown)
    room = 0.12 * (high - low) or 1.0
    if max(len(epochs) for epochs, _ in curves) > 3:
        bottom, top = axes.get_ylim()
        axes.set_ylim(*((low - room, max(top, high + room / 2)) if metric.higher_is_better else (bottom, high + room)))
    if teacher is not None:
        axes.axhline(teacher, color=TEACHER_COLOR, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)


def _panels(metric: Metric) -> tuple[tuple[str, bool, Callable[[EpochRecord], float | None]], ...]:
    """Title of each panel, whether its axis may be logarithmic, and what is read of an epoch."""
    return (
        ("task loss (train), nats", True, lambda record: record.train.task_loss),
        ("KL to teacher (T=4, train), nats", True, lambda record: record.train.kl_to_teacher),
        (
            measured(f"{metric.title} (validation)", metric),
            False,
            lambda record: record.val.get(metric.name) if record.val else None,
        ),
    )


def _curves(records: Sequence[EpochRecord], read: Callable[[EpochRecord], float | None]) -> dict[str, Curve]:
    values: dict[str, dict[int, dict[int, float]]] = {}
    for record in records:
        value = read(record)
        if value is not None and math.isfinite(value):
            values.setdefault(record.row, {}).setdefault(record.epoch, {})[record.seed] = value
    curves = {}
    for row, by_epoch in values.items():
        epochs = sorted(by_epoch)
        seeds = sorted({seed for at in by_epoch.values() for seed in at})
        table = np.array([[by_epoch[epoch].get(seed, math.nan) for seed in seeds] for epoch in epochs])
        curves[row] = (np.array(epochs, dtype=np.float64), table)
    return curves


def _draw_curve(axes: Axes, curve: Curve, look: RowLook, name: str) -> None:
    epochs, values = curve
    mark = look.marker if len(epochs) == 1 else None  # a line through one point would not show
    axes.plot(epochs, np.nanmean(values, axis=1), color=look.color, linestyle=look.dash, marker=mark, label=name)
    if values.shape[1] > 1:
        low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
        axes.fill_between(epochs, low, high, color=look.color, alpha=0.13, linewidth=0)


def _finish_curve_axes(axes: Axes, title: str, may_be_log: bool) -> None:
    axes.set_title(title, pad=8)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    epochs = set(np.concatenate([np.asarray(line.get_xdata(orig=False), dtype=np.float64) for line in axes.lines]))
    if len(epochs) == 1:  # else it is a third of the axis that is told in hundredths of an epoch
        axes.set_xticks(sorted(epochs))
        axes.set_xlim(min(epochs) - 1, max(epochs) + 1)
    values = np.concatenate([np.asarray(line.get_ydata(orig=False), dtype=np.float64) for line in axes.lines])
    if may_be_log and values.min() > 0 and values.max() / values.min() > 20:
        axes.set_yscale("log")
        decades = math.log10(values.max() / values.min())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=12))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _key(look: RowLook, name: str) -> Line2D:
    return Line2D([], [], color=look.color, linestyle=look.dash, label=shortened(name))
