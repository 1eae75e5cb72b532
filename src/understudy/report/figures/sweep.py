"""The figure of a sweep: the headline metric and both losses against the setting that the rows vary."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from understudy.report.figures.base import register_figure
from understudy.report.figures.style import (
    TEACHER_COLOR,
    Dash,
    Plot,
    RowLook,
    add_panels,
    is_narrow,
    legend_columns,
    looks,
    new_figure,
    shortened,
)
from understudy.report.run_data import RunData
from understudy.results.schema import Results, Row, SeedResult

__all__ = ["setting_plot"]

_LOG_FROM = 50  # times the smallest value: a learning rate from 0.001 to 0.1
_MOST_REFERENCES = 4  # rows without the setting, drawn as lines across

Reader = Callable[[SeedResult], float | None]


@register_figure("setting", place=20)
def setting_plot(run: RunData) -> Plot | None:
    """Headline metric, task loss and KL to the teacher against the setting that most rows vary; None where none is."""
    results = run.results
    key = _axis_of(results.rows)
    if key is None:
        return None
    places = _places(results.rows, key)
    lines = _lines(results.rows, key)
    style = looks([*lines, *(row.name for row in _references(results.rows, key))])
    panels = [(title, read, reported) for title, read, reported in _panels(results) if _has(results.rows, read)]
    figure = new_figure(4.0)
    is_published = False
    for axes, (title, read, reported) in zip(add_panels(figure, len(panels)), panels, strict=True):
        for name, rows in lines.items():
            _draw_line(
                axes,
                name or "these rows",
                rows,
                [places[_hashable(row.varied[key])] for row in rows],
                read,
                style[name],
            )
        for row in _references(results.rows, key):
            if (mean := _mean(row, read)) is not None:
                axes.axhline(mean, color=style[row.name].color, linestyle="dotted", linewidth=1.4)
        is_published |= _draw_published(axes, results.rows, key, places, reported)
        _finish(axes, title, key, places)
    handles = [_key(style[name], name or "these rows") for name in lines]
    handles += [_key(style[row.name], row.name, dash="dotted") for row in _references(results.rows, key)]
    published: Any = {"marker": "D", "markerfacecolor": "white", "markeredgecolor": TEACHER_COLOR, "linestyle": "none"}
    handles += [Line2D([], [], **published, label="published")] if is_published else []
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(min(6, len(handles))))
    spread = (
        "pale marks are single seeds, bands reach from the lowest to the highest" if _seeds(results) else "one seed"
    )
    text = f"Each mark is a row that differs from the others in {key} alone; {spread}."
    return Plot("setting", f"What {key} does", text, figure)


def _axis_of(rows: Sequence[Row]) -> str | None:
    """The setting with the most values."""
    values: dict[str, set[Any]] = {}
    for row in rows:
        for key, value in row.varied.items():
            values.setdefault(key, set()).add(_hashable(value))
    most = max(values, key=lambda key: len(values[key]), default=None)
    return most if most is not None and len(values[most]) > 1 else None


def _places(rows: Sequence[Row], key: str) -> dict[Any, float]:
    """Where each value stands: numbers at themselves, anything else side by side in the order of the table."""
    values = list(dict.fromkeys(_hashable(row.varied[key]) for row in rows if key in row.varied))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return {value: float(value) for value in values}
    return {value: float(place) for place, value in enumerate(values)}


def _lines(rows: Sequence[Row], key: str) -> dict[str, list[Row]]:
    """Rows that are alike in all other varied settings, by these in words."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if key in row.varied:
            others = " ".join(f"{name}={value}" for name, value in row.varied.items() if name != key)
            lines.setdefault(others, []).append(row)
    return lines


def _references(rows: Sequence[Row], key: str) -> list[Row]:
    return [row for row in rows if key not in row.varied][:_MOST_REFERENCES]


def _panels(results: Results) -> list[tuple[str, Reader, str | None]]:
    """Title, what is read of a seed, and the published number that may stand beside it."""
    metric, images = results.metric, "test" if results.split == "test" else "validation"
    unit = f", {metric.unit}" if metric.unit else ""
    return [
        (f"{metric.title} ({images}){unit}", results.seed_score, metric.name),
        ("task loss (train), nats", lambda seed: seed.train.task_loss if seed.train else None, "task_loss"),
        ("KL to teacher (T=4, train), nats", lambda seed: seed.train.kl_to_teacher if seed.train else None, None),
    ]


def _values(row: Row, read: Reader) -> list[float]:
    found = [read(seed) for seed in row.seeds]
    return [value for value in found if value is not None and math.isfinite(value)]


def _mean(row: Row, read: Reader) -> float | None:
    values = _values(row, read)
    return float(np.mean(values)) if values else None


def _has(rows: Sequence[Row], read: Reader) -> bool:
    return any(_values(row, read) for row in rows)


def _seeds(results: Results) -> bool:
    return len(results.seeds) > 1


def _draw_line(
    axes: Axes, name: str, rows: Sequence[Row], places: Sequence[float], read: Reader, look: RowLook
) -> None:
    """Means joined by a line, single seeds in pale, from the smallest value to the largest."""
    found = sorted((place, values) for place, row in zip(places, rows, strict=True) if (values := _values(row, read)))
    x = [place for place, _ in found]
    axes.plot(x, [float(np.mean(values)) for _, values in found], marker=look.marker, color=look.color,
              linestyle=look.dash, label=name)  # fmt: skip
    if any(len(values) > 1 for _, values in found):
        axes.fill_between(x, [min(v) for _, v in found], [max(v) for _, v in found], color=look.color, alpha=0.13,
                          linewidth=0)  # fmt: skip
        for place, values in found:
            axes.plot([place] * len(values), values, look.marker, color=look.color, alpha=0.35, markersize=4)


def _draw_published(
    axes: Axes, rows: Sequence[Row], key: str, places: Mapping[Any, float], reported: str | None
) -> bool:
    """Hollow diamonds where a paper's table has a number; whether there was one."""
    points = [
        (places[_hashable(row.varied[key])], value)
        for row in rows
        if reported is not None and key in row.varied
        for source in row.published
        if (value := source.task_loss if reported == "task_loss" else source.scores.get(reported)) is not None
    ]
    for x, y in points:
        axes.plot(x, y, "D", markersize=6, markerfacecolor="white", markeredgecolor=TEACHER_COLOR, zorder=5)
    return bool(points)


def _finish(axes: Axes, title: str, key: str, places: Mapping[Any, float]) -> None:
    axes.set_title(title, pad=8)
    axes.set_xlabel(key)
    at = list(places.values())
    if is_narrow():
        axes.xaxis.set_major_locator(MaxNLocator(4))
    if any(not isinstance(value, int | float) or isinstance(value, bool) for value in places):
        axes.set_xticks(at, [shortened(str(value), 12) for value in places])
        axes.margins(x=0.15)
    elif min(at) > 0 and max(at) / min(at) > _LOG_FROM:
        axes.set_xscale("log")


def _key(look: RowLook, name: str, *, dash: Dash | None = None) -> Line2D:
    marker = None if dash else look.marker
    return Line2D([], [], color=look.color, linestyle=dash or look.dash, marker=marker, label=shortened(name))


def _hashable(value: Any) -> Any:
    return value if isinstance(value, int | float | str) or value is None else str(value)
