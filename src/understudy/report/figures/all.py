"""The figures of a run: each returns a Plot, or None where the run holds nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from understudy.analysis import outcomes, paired_bootstrap, per_class_accuracy
from understudy.report.figures.style import (
    GREY,
    STYLE,
    TEACHER_COLOR,
    Dash,
    Plot,
    RowLook,
    looks,
    new_figure,
    shortened,
)
from understudy.report.figures.sweep import setting_plot
from understudy.report.formatting import first_word
from understudy.report.run_data import EpochRecord, RunFolder
from understudy.results.schema import ALONE, Results
from understudy.tasks import Metric

__all__ = ["accuracy_plot", "all_plots", "class_plot", "curves_plot", "difference_plot", "outcome_plot", "setting_plot"]

_ROW_INCHES = 0.34
_MOST_CLASSES = 20  # more do not fit a screen; those with the largest gaps are shown


def all_plots(run: RunFolder) -> list[Plot]:
    """Every figure that the run has the numbers for, in the order of the page."""
    makers = (curves_plot, setting_plot, accuracy_plot, difference_plot, class_plot, outcome_plot)
    return [plot for make in makers if (plot := make(run)) is not None]


@matplotlib.rc_context(STYLE)
def curves_plot(run: RunFolder) -> Plot | None:
    """Task loss, KL to the teacher and validation score by epoch: mean over seeds, lowest to highest shaded."""
    panels = [
        (title, log, curves) for title, log, read in _panels(run.results) if (curves := _curves(run.epochs, read))
    ]
    if not panels:
        return None
    figure = new_figure(3.6)
    style = looks([row.name for row in run.results.rows])
    for i, (title, may_be_log, curves) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), i)
        for row in run.results.rows:
            if row.name in curves:
                _draw_curve(axes, curves[row.name], style[row.name])
        _finish_curve_axes(axes, title, may_be_log)
    handles = [_key(style[row.name], row.name) for row in run.results.rows]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
    spread = "lines are means over seeds, bands reach from the lowest to the highest seed"
    metric = run.results.metric
    higher = f", higher for {metric.word or metric.title}" if metric.higher_is_better else f" and {metric.title}"
    reading = f"Left to right, training goes on: lower is better for losses{higher}"
    return Plot("curves", "Curves", f"{reading}; {spread if len(run.results.seeds) > 1 else 'one seed'}.", figure)


@matplotlib.rc_context(STYLE)
def accuracy_plot(run: RunFolder) -> Plot | None:
    """Score of every row by the headline metric: mean, interval over images and seeds, and each seed's own value."""
    results = run.results
    metric = results.metric
    rows = [row for row in results.rows if math.isfinite(results.score(row).mean)]
    if not rows or (len(results.rows) == 1 and len(results.seeds) == 1 and results.teacher is None):
        return None  # one mark on an empty axis shows nothing
    style = looks([row.name for row in results.rows])
    figure = new_figure(1.1 + _ROW_INCHES * len(rows))
    axes = figure.add_subplot()
    has_interval = False
    for y, row in enumerate(rows):
        look, mean = style[row.name], results.score(row).mean
        seeds = [results.seed_score(seed) for seed in row.seeds]
        axes.plot(seeds, [y] * len(seeds), look.marker, color=look.color, alpha=0.35, markersize=5, linestyle="none")
        interval = _score_interval(run, row.name)
        if interval is not None:
            has_interval = True
            axes.plot(interval, [y, y], color=look.color, linewidth=2.2)
        axes.plot(mean, y, look.marker, color=look.color, markersize=8, markeredgecolor="white")
    if results.teacher_score is not None:
        _upright(axes, results.teacher_score, "teacher", TEACHER_COLOR, "dashed")
    _finish_rows(axes, [row.name for row in rows], _measured(f"{metric.title} on {_images_of(results)}", metric))
    if metric.unit == "%":
        _within_percent(axes)
    bars = "; bars are 95 % intervals over images and seeds" if has_interval else ""
    way = "right" if metric.higher_is_better else "left"
    text = f"Further {way} is better: large marks are means at the {results.epoch_words}, pale ones single seeds{bars}."
    return Plot("accuracy", f"{first_word(metric.word or metric.title)} of every row", text, figure)


@matplotlib.rc_context(STYLE)
def difference_plot(run: RunFolder) -> Plot | None:
    """Each row's lead over the student alone, with its 95 % interval."""
    results = run.results
    found = [c for row in results.rows if (c := results.comparison(row.name, ALONE)) is not None]
    if not found:
        return None
    style = looks([row.name for row in results.rows])
    figure = new_figure(1.0 + _ROW_INCHES * len(found))
    axes = figure.add_subplot()
    _upright(axes, 0, ALONE, style[ALONE].color, "solid")
    for y, c in enumerate(found):
        look = style[c.row]
        axes.plot([c.low, c.high], [y, y], color=look.color, linewidth=2.2)
        face = "white" if c.spans_zero else look.color
        axes.plot(c.difference, y, look.marker, markersize=8, markerfacecolor=face, markeredgecolor=look.color)
    _finish_rows(axes, [c.row for c in found], f"{_gained(results.metric)}, on {_images_of(results)}")
    many = "; with many rows the best of them is a little lucky, and no interval here makes up for that"
    reading = "A bar that touches the line at zero (hollow mark) is a row that cannot be told from the student alone"
    text = f"{reading}; bars are 95 % intervals{many if len(found) > 2 else ''}."
    return Plot("differences", "What distillation gave", text, figure)


@matplotlib.rc_context(STYLE)
def class_plot(run: RunFolder) -> Plot | None:
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
    filled: Any = {"markersize": 7.5, "color": color, "markeredgecolor": "white"}
    axes.plot(student[shown], y, "o", **filled, linestyle="none", label=shortened(f"student, {best.name}"))
    _finish_rows(axes, [data.class_name(number) for number in shown], f"accuracy on {_images_of(run.results)}, %")
    _within_percent(axes)
    figure.legend(loc="outside lower center", ncols=2)
    part = f" ({len(shown)} of {data.num_classes} classes, those with the widest gaps)"
    reading = "The longer the line, the further student and teacher are apart on that class"
    text = f"{reading}; sorted by the student's lead{part if len(shown) < data.num_classes else ''}."
    return Plot("classes", f"Class by class: {best.name} and the teacher", text, figure)


@matplotlib.rc_context(STYLE)
def outcome_plot(run: RunFolder) -> Plot | None:
    """Of every row: which images only the student, only the teacher, or neither gets right."""
    predictions = run.predictions
    if predictions is None or predictions.teacher is None or not predictions.rows:
        return None
    figure = new_figure(1.3 + _ROW_INCHES * len(predictions.rows))
    axes = figure.add_subplot()
    for y, said_by_seed in enumerate(predictions.rows.values()):
        found = [outcomes(said, predictions.teacher, predictions.labels) for said in said_by_seed]
        start = 0.0
        for (label, color), lists in zip(
            _OUTCOMES, zip(*((o.only_student, o.only_teacher, o.both_wrong) for o in found), strict=True), strict=True
        ):
            share = 100 * float(np.mean([len(images) for images in lists])) / len(predictions.labels)
            axes.barh(y, share, left=start, height=0.62, color=color, label=label if y == 0 else None)
            start += share
        text = f"  both right: {100 - start:.1f} %"
        axes.annotate(text, (start, y), va="center", color="#33373d", annotation_clip=False)
    axes.margins(x=0.16)
    axes.set_xlim(left=0)
    _finish_rows(axes, list(predictions.rows), f"% of {_images_of(run.results)}, mean over seeds")
    figure.legend(loc="outside lower center", ncols=3)
    text = (
        "Indigo is what the student knows and the teacher does not, sand what it failed to learn from the teacher, "
        "grey what neither gets right; the shorter the bar, the better."
    )
    return Plot("outcomes", "Where student and teacher are right and wrong", text, figure)


Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # (E,) epochs, (E, S) values, NaN where one is missing

# No row has these colours (Paul Tol's muted scheme, safe for colour blindness).
_OUTCOMES = (("only the student is right", "#332288"), ("only the teacher is right", "#DDCC77"), ("both wrong", GREY))


def _panels(results: Results) -> tuple[tuple[str, bool, Callable[[EpochRecord], float | None]], ...]:
    """Title of each panel, whether its axis may be logarithmic, and what is read of an epoch."""
    metric = results.metric
    return (
        ("task loss (train), nats", True, lambda record: record.train.task_loss),
        ("KL to teacher (T=4, train), nats", True, lambda record: record.train.kl_to_teacher),
        (
            _measured(f"{metric.title} (validation)", metric),
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


def _draw_curve(axes: Axes, curve: Curve, look: RowLook) -> None:
    epochs, values = curve
    mark = look.marker if len(epochs) == 1 else None  # a line through one point would not show
    axes.plot(epochs, np.nanmean(values, axis=1), color=look.color, linestyle=look.dash, marker=mark)
    if values.shape[1] > 1:
        low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
        axes.fill_between(epochs, low, high, color=look.color, alpha=0.13, linewidth=0)


def _finish_curve_axes(axes: Axes, title: str, may_be_log: bool) -> None:
    axes.set_title(title, pad=8)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.lines])
    if may_be_log and values.min() > 0 and values.max() / values.min() > 20:
        axes.set_yscale("log")
        decades = math.log10(values.max() / values.min())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=12))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _key(look: RowLook, name: str) -> Line2D:
    return Line2D([], [], color=look.color, linestyle=look.dash, label=shortened(name))


def _upright(axes: Axes, x: float, label: str, color: str, dash: Dash) -> None:
    """A reference line across all rows, named at its upper end."""
    axes.axvline(x, color=color, linestyle=dash, linewidth=1.3, zorder=1)
    where = axes.get_xaxis_transform()  # x in the data's unit, y in shares of the axes
    axes.text(x, 1.01, label, transform=where, ha="center", va="bottom", fontsize=9)


def _finish_rows(axes: Axes, names: Sequence[str], label: str) -> None:
    """One name per line from the top down, and room above and below."""
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))


def _within_percent(axes: Axes) -> None:
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -1), min(high, 101))


def _images_of(results: Results) -> str:
    return f"{results.num_images:,} {'test' if results.split == 'test' else 'validation'} images"


def _score_interval(run: RunFolder, row: str) -> tuple[float, float] | None:
    if row not in run.items:
        return None
    scores = run.items[row]
    interval = paired_bootstrap(scores, np.zeros_like(scores), resamples=2_000)  # ends are drawn, not printed
    return interval.low, interval.high


def _measured(what: str, metric: Metric) -> str:
    """'top-1 on 450 validation images, %'."""
    return f"{what}, {metric.unit}" if metric.unit else what


def _gained(metric: Metric) -> str:
    """'points of top-1 ahead of the student alone': the row minus the student alone, whichever way is up."""
    unit = "points" if metric.unit == "%" else metric.unit
    what = f"{unit} of {metric.title}" if unit else metric.title
    way = "ahead of the student alone" if metric.higher_is_better else "above the student alone (less is better)"
    return f"{what} {way}"


def _widest_gaps(gaps: npt.NDArray[np.float64]) -> list[int]:
    """Classes to show, those with images, the student's best lead first."""
    known = [int(number) for number in np.flatnonzero(np.isfinite(gaps))]
    widest = sorted(known, key=lambda number: -abs(gaps[number]))[:_MOST_CLASSES]
    return sorted(widest, key=lambda number: (-gaps[number], number))
