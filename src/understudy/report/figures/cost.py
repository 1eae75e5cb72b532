"""Accuracy against what a network costs: the first thing to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from understudy.report.figures.base import register_figure
from understudy.report.figures.hover import hover_points
from understudy.report.figures.rows import images_of, measured
from understudy.report.figures.style import (
    TEACHER_COLOR,
    Plot,
    RowLook,
    add_panels,
    legend_columns,
    looks,
    new_figure,
    shortened,
)
from understudy.report.formatting import compact, score, score_spread, with_unit
from understudy.report.run_data import RunData
from understudy.results.schema import ALONE, Results, Row

__all__ = ["cost_plot"]

_LOG_FROM = 4  # times the smallest cost


@dataclass(frozen=True, slots=True)
class _Cost:
    title: str  # of the axis
    in_words: Callable[[float], str]
    teacher: float | None
    rows: dict[str, float]


@register_figure("cost", place=0)
def cost_plot(run: RunData) -> Plot | None:
    """The headline's score against parameters and milliseconds an image; the teacher above, the student alone below."""
    results = run.results
    rows = [row for row in results.rows if math.isfinite(results.score(row).mean)]
    costs = [cost for cost in _costs(run, rows) if _is_worth_drawing(cost)]
    if not rows or not costs:
        return None
    style = looks([row.name for row in results.rows])
    figure = new_figure(3.7)
    for axes, cost in zip(add_panels(figure, len(costs)), costs, strict=True):
        _draw(axes, cost, rows, results, style)
    figure.axes[0].set_title(measured(f"{results.metric.title} on {images_of(results)}", results.metric), pad=8)
    handles = [
        Line2D(
            [],
            [],
            color=style[row.name].color,
            marker=style[row.name].marker,
            linestyle="none",
            label=shortened(row.name),
        )
        for row in rows
    ]
    if results.teacher_score is not None:
        handles.append(Line2D([], [], color=TEACHER_COLOR, marker="D", linestyle="none", label="teacher"))
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(min(7, len(handles))))
    way = "Further up is better" if results.metric.higher_is_better else "Further down is better"
    text = f"{way}, further left is cheaper"
    if results.teacher_score is not None:
        text += "; the dashed line is the teacher, the ceiling that distillation aims at"
    if results.row(ALONE) is not None:
        text += ", " if "dashed" in text else "; "
        text += "the grey line the student alone, the floor"
    if any(len(set(cost.rows.values())) < len(cost.rows) for cost in costs):
        text += "; rows of one cost stand side by side"
    seeds = "; bars reach from the lowest to the highest seed" if len(results.seeds) > 1 else "; one seed"
    return Plot("cost", "What it gains and what it costs", f"{text}{seeds}.", figure)


def _costs(run: RunData, rows: Sequence[Row]) -> list[_Cost]:
    teacher = run.results.teacher
    sizes = {row.name: float(row.student.parameters) for row in rows if row.student.parameters}
    times = {row.name: ms for row in rows if (ms := _milliseconds(run, row.student.model, "student")) is not None}
    size = float(teacher.parameters) if teacher and teacher.parameters else None
    time = _milliseconds(run, teacher.model, "teacher") if teacher else None
    return [
        _Cost("parameters", compact, size, sizes),
        _Cost("ms an image, on this machine", lambda ms: f"{ms:.3g} ms", time, times),
    ]


def _milliseconds(run: RunData, model: str, role: str) -> float | None:
    speed = run.timing.speed_of(model, "teacher" if role == "teacher" else "student")
    return 1000 / speed if speed else None


def _is_worth_drawing(cost: _Cost) -> bool:
    """Whether there are two costs to hold against each other."""
    return bool(cost.rows) and len({*cost.rows.values(), *([] if cost.teacher is None else [cost.teacher])}) > 1


def _draw(axes: Axes, cost: _Cost, rows: Sequence[Row], results: Results, style: dict[str, RowLook]) -> None:
    reached, alone, metric = results.teacher_score, results.row(ALONE), results.metric
    values = [*cost.rows.values(), *([] if cost.teacher is None else [cost.teacher])]
    is_log = max(values) / min(values) > _LOG_FROM
    places = _side_by_side(cost.rows, values, is_log=is_log)
    told: list[tuple[float, float, str]] = []
    if alone is not None and math.isfinite(results.score(alone).mean):
        axes.axhline(results.score(alone).mean, color=style[ALONE].color, linewidth=1.2, zorder=1)
    if reached is not None:
        axes.axhline(reached, color=TEACHER_COLOR, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
    if reached is not None and cost.teacher is not None:
        axes.plot(cost.teacher, reached, "D", color=TEACHER_COLOR, markersize=7, markeredgecolor="white")
        words = f"teacher: {with_unit(score(reached, metric), metric)} at {cost.in_words(cost.teacher)}"
        told.append((cost.teacher, reached, words))
    for row in rows:
        if row.name not in places:
            continue
        look, x, found = style[row.name], places[row.name], results.score(row)
        seeds = [value for seed in row.seeds if math.isfinite(value := results.seed_score(seed))]
        if len(seeds) > 1:
            axes.plot([x, x], [min(seeds), max(seeds)], color=look.color, alpha=0.45, linewidth=2)
        axes.plot(x, found.mean, look.marker, color=look.color, markersize=8, markeredgecolor="white")
        words = f"{row.name}: {with_unit(score_spread(found, metric), metric)} at {cost.in_words(cost.rows[row.name])}"
        told.append((x, found.mean, words))
    if is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: cost.in_words(value).removesuffix(" ms")))
    axes.set_xlabel(cost.title)
    axes.margins(x=0.12, y=0.1)
    hover_points(axes, [x for x, _, _ in told], [y for _, y, _ in told], [words for _, _, words in told])


def _side_by_side(costs: dict[str, float], values: Sequence[float], *, is_log: bool) -> dict[str, float]:
    """Where each row stands: rows of one cost a little apart, so that none hides another."""
    span = math.log10(max(values) / min(values)) if is_log else max(values) - min(values)
    places = {}
    for value in set(costs.values()):
        names = [name for name, cost in costs.items() if cost == value]
        steps = np.arange(len(names)) - (len(names) - 1) / 2
        shifts = steps * min(0.035, 0.25 / len(names)) * span
        for name, shift in zip(names, shifts, strict=True):
            places[name] = value * 10**shift if is_log else value + shift
    return places
