"""Axes with one row of a comparison a line, which several figures share."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from understudy.report.figures.style import (
    Dash,
    is_narrow,
    shortened,
)
from understudy.results.schema import Results
from understudy.tasks import Metric

__all__ = ["ROW_INCHES", "finish_rows", "images_of", "measured", "reference_line", "within_percent"]


ROW_INCHES = 0.34


def reference_line(axes: Axes, x: float, label: str, color: str, dash: Dash) -> None:
    """A reference line across all rows, named at its upper end."""
    axes.axvline(x, color=color, linestyle=dash, linewidth=1.3, zorder=1)
    where = axes.get_xaxis_transform()  # x in the data's unit, y in shares of the axes
    axes.text(x, 1.01, label, transform=where, ha="center", va="bottom", fontsize=9)


def finish_rows(axes: Axes, names: Sequence[str], label: str) -> None:
    """One name per line from the top down, and room above and below."""
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("\n".join(wrap(label, 30)) if is_narrow() else label)
    axes.xaxis.set_major_locator(MaxNLocator(4 if is_narrow() else 8, steps=[1, 2, 5, 10]))


def within_percent(axes: Axes) -> None:
    """Keep the axis of a percentage from reaching far beyond 0 and 100."""
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -1), min(high, 101))


def images_of(results: Results) -> str:
    """'450 validation images': what the scores of a run are over."""
    return f"{results.num_images:,} {'test' if results.split == 'test' else 'validation'} images"


def measured(what: str, metric: Metric) -> str:
    """'top-1 on 450 validation images, %'."""
    return f"{what}, {metric.unit}" if metric.unit else what
