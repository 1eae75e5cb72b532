"""Figures of analyses and probes: registered so that their place says what they lack, and what would bring it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter

from understudy.report.figures.base import Lacking, register_figure
from understudy.report.figures.style import Plot, RowLook, is_narrow, legend_columns, shortened
from understudy.report.kept_findings import Findings, Looks, read_findings, read_looks, why_absent
from understudy.report.run_data import RunData
from understudy.results.schema import ALONE

__all__ = ["DAMAGED", "add_grid", "add_legend", "chosen_rows", "draw_line", "make_log", "of_analysis", "of_probe"]

DAMAGED = (KeyError, TypeError, ValueError, IndexError, AttributeError)  # what a file from anywhere may lead to
Values = npt.NDArray[np.float64]


def of_analysis(
    name: str, what: str, title: str, *, place: int, tasks: Sequence[str] = ("classification",)
) -> Callable[[Callable[[RunData, Findings], Plot | None]], Callable[[RunData], Plot | Lacking | None]]:
    """Register a figure of an analysis: a function of the run and of what was found.

    A run that was never analysed has none of these figures, and one sentence for all of them.

    Args:
        name: of the figure.
        what: the analysis.
        title: of the figure.
        place: on the page.
        tasks: of whose runs the analysis can be made; the pages of others are silent about it.
    """

    def registered(draw: Callable[[RunData, Findings], Plot | None]) -> Callable[[RunData], Plot | Lacking | None]:
        def drawn(run: RunData) -> Plot | Lacking | None:
            if run.results.task not in tasks or not (run.folder / "analysis").is_dir():
                return None
            again = f"`understudy analyze RUN --what {what}`"
            try:
                found = read_findings(run.folder, what)
                if found is None:
                    return Lacking(name, title, f"Not analysed: {again} draws it.")
                if found.problem is not None:
                    return Lacking(name, title, f"Left out: {found.problem}.")
                plot = draw(run, found)
            except DAMAGED as error:
                return Lacking(
                    name, title, f"analysis/{what}.json cannot be drawn ({error}): {again} computes it anew."
                )
            unfinished = f"The analysis was interrupted: {again} goes on with it."
            return plot or Lacking(name, title, "There is nothing to draw yet. " * found.is_whole or unfinished)

        drawn.__qualname__, drawn.__module__ = draw.__qualname__, draw.__module__
        return register_figure(name, place=place)(drawn)

    return registered


def of_probe(
    name: str, probe: str, title: str, *, place: int
) -> Callable[[Callable[[RunData, dict[str, Looks]], Plot | None]], Callable[[RunData], Plot | Lacking | None]]:
    """Likewise of a probe, and of what it has seen by row."""

    def registered(
        draw: Callable[[RunData, dict[str, Looks]], Plot | None],
    ) -> Callable[[RunData], Plot | Lacking | None]:
        def drawn(run: RunData) -> Plot | Lacking | None:
            if not (run.folder / "probes").is_dir():
                return None
            rows, seeds = [row.name for row in run.results.rows], list(run.results.seeds)
            try:
                found = read_looks(run.folder, probe, rows, seeds)
                if found is None:
                    return Lacking(name, title, f"Trained without this probe: --probes {probe} looks at it.")
                plot = draw(run, found) if found else None
            except DAMAGED as error:
                return Lacking(name, title, f"probes/{probe}.safetensors cannot be drawn ({error}).")
            why = why_absent(run.folder, probe)
            few = "The run had fewer steps than probe_every; set it to fewer."
            return plot or Lacking(name, title, few if why is None else f"Nothing to see: {why}.")

        drawn.__qualname__, drawn.__module__ = draw.__qualname__, draw.__module__
        return register_figure(name, place=place)(drawn)

    return registered


def chosen_rows(run: RunData, names: Sequence[str], most: int) -> list[str]:
    """At most so many of these rows: the student alone and the best row are among them."""
    known = [row.name for row in run.results.rows if row.name in names]
    best = run.results.best_row
    first = [name for name in known if name == ALONE or (best is not None and name == best.name)]
    kept = [*first, *(name for name in known if name not in first)][:most]
    return [name for name in known if name in kept]


def add_grid(figure: Figure, number: int, *, columns: int) -> list[Axes]:
    """Axes in rows of `columns`, of two for a phone; the figure's height is of one row, and grows."""
    columns = min(number, 2 if is_narrow() else columns)
    rows = -(-number // columns)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height * rows)
    return [figure.add_subplot(rows, columns, place) for place in range(1, number + 1)]


def draw_line(axes: Axes, x: npt.NDArray[np.generic], values: Values, look: RowLook, label: str) -> None:
    """A line of means over seeds (S, K), from the lowest to the highest shaded; a marker where it is one point."""
    marker = look.marker if len(x) == 1 else None
    axes.plot(x, values.mean(axis=0), color=look.color, linestyle=look.dash, marker=marker, label=label)
    if len(values) > 1 and len(x) > 1:
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=look.color, alpha=0.13, linewidth=0)


def make_log(axes: Axes, *, x: bool = False) -> None:
    """A logarithmic axis with plain numbers: matplotlib's powers are formulas, which the style does not set."""
    if x:
        axes.set_xscale("log")
    else:
        axes.set_yscale("log")
    axis = axes.xaxis if x else axes.yaxis
    low, high = axis.get_view_interval()
    decades = np.log10(max(high, 1e-300) / max(low, 1e-300))
    locator: Locator = LogLocator(subs=(1, 2, 5) if decades < 1.8 else (1,), numticks=9)
    if sum(low <= tick <= high for tick in locator.tick_values(low, high)) < 2:
        locator = MaxNLocator(4)  # a narrow range: a single number on an axis says nothing of its scale
    axis.set_major_locator(locator)
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def add_legend(figure: Figure, looks: dict[str, RowLook], rows: Sequence[str], *, more: Sequence[Line2D] = ()) -> None:
    """One key for each row below the panels."""
    keys = [Line2D([], [], color=looks[row].color, linestyle=looks[row].dash, label=shortened(row)) for row in rows]
    keys += more
    figure.legend(handles=keys, loc="outside lower center", ncols=legend_columns(min(6, len(keys))))
