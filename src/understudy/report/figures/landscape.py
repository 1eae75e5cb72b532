"""The task loss around the weights of every student, and how sharply it rises."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from understudy.report.figures.base import Lacking, register_figure
from understudy.report.figures.found import add_grid, add_legend, chosen_rows, make_log, of_analysis
from understudy.report.figures.hover import hover_points
from understudy.report.figures.rows import finish_rows
from understudy.report.figures.style import Plot, add_panels, looks, new_figure, shortened
from understudy.report.kept_findings import Findings, floats
from understudy.report.run_data import RunData

__all__ = ["analysis_note", "curvature_plot", "landscape_plot", "plane_plot"]

MOST_PLANES = 6
LEVELS = 9


@register_figure("analysis", place=80)
def analysis_note(run: RunData) -> Lacking | None:
    """One sentence for all figures of analyses, where the run was never analysed."""
    if (run.folder / "analysis").is_dir():
        return None
    why = (
        "`understudy analyze RUN` adds the loss landscape and its curvature, fidelity and relations to the teacher, "
        "similarity of layers, equivariance, embeddings and projectors to this page."
    )
    if run.results.task == "segmentation":
        return None
    if run.results.task == "detection":
        why = "`understudy analyze RUN` adds how alike the levels of students and teacher are to this page."
    return Lacking("analysis", "Why the students are as they are", why)


@of_analysis("landscape", "landscape", "Loss landscape along a line", place=81)
def landscape_plot(run: RunData, found: Findings) -> Plot | None:
    """Task loss along one direction, the same for all rows."""
    names = [row.name for row in run.results.rows if f"{row.name}/line" in found.pieces]
    if not names:
        return None
    style = looks([row.name for row in run.results.rows])
    figure = new_figure(3.8)
    axes = figure.add_subplot()
    sentences = []
    for name in names:
        line = found.pieces[f"{name}/line"]
        losses = floats(line["losses"])
        axes.plot(
            floats(line["steps"]),
            losses,
            color=style[name].color,
            linestyle=style[name].dash,
            label=name,
        )
        sentences.append(
            f"{name}: the loss is {float(line['loss']):.3g} at the student and at most {np.nanmax(losses):.3g} on the "
            f"line; sharpness {float(line['sharpness']):,.0f} %."
        )
    make_log(axes)
    axes.set_xlabel("step, in lengths of each filter")
    axes.set_ylabel("task loss (train), nats")
    add_legend(figure, style, names)
    reading = (
        f"Each student's weights, 0, and what becomes of its task loss on {found.num_images:,} training images as they "
        "are moved along one direction, the same for all, scaled filter by filter (Li et al. 2018); batch norms keep "
        "their statistics. A wide, flat valley is what DOT's figure 2 is about. Sharpness is the rise to the highest "
        "loss on the line, divided by 1 + the loss at the student (Keskar et al. 2017): the smaller, the flatter."
    )
    return Plot("landscape", "Loss landscape along a line", reading, figure, tuple(sentences))


@of_analysis("plane", "landscape", "Loss landscape in a plane", place=82)
def plane_plot(run: RunData, found: Findings) -> Plot | None:
    """Contours of the task loss along two directions, on one scale for all rows."""
    planes = {row.name: plane for row in run.results.rows if (plane := _plane(found, row.name)) is not None}
    names = chosen_rows(run, list(planes), MOST_PLANES)
    if not names:
        return None
    figure = new_figure(3.3)
    logs = {name: np.log10(np.maximum(planes[name][1], 1e-6)) for name in names}
    everything = np.concatenate([values[np.isfinite(values)] for values in logs.values()])
    levels = np.linspace(everything.min(), max(everything.max(), everything.min() + 1e-3), LEVELS)
    grid = add_grid(figure, len(names), columns=3)
    for axes, name in zip(grid, names, strict=True):
        steps = planes[name][0]
        drawn = axes.contourf(steps, steps, logs[name].T, levels=levels, cmap="cividis")
        axes.contour(steps, steps, logs[name].T, levels=levels, colors="white", linewidths=0.5)
        axes.plot([0], [0], marker="+", color="white", markersize=8)
        _tell(axes, *planes[name])
        axes.set_title(shortened(name), pad=6)
        axes.set_aspect("equal")
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
        axes.grid(visible=False)
    bar = figure.colorbar(drawn, ax=grid, shrink=0.8, ticks=levels[::2])
    bar.ax.set_yticklabels([f"{float(f'{10**level:.2g}'):g}" for level in levels[::2]])
    bar.set_label("task loss (train), nats")
    reading = (
        "The same along two directions: the student is at the cross, dark is a low loss on "
        f"{found.num_images:,} training images. One scale for all, so that a larger dark basin is a flatter minimum."
    )
    return Plot("plane", "Loss landscape in a plane", reading, figure)


def _tell(axes: Axes, steps: npt.NDArray[Any], losses: npt.NDArray[Any]) -> None:
    """Have the page tell the loss where the pointer is."""
    places = [(i, j) for i, j in np.ndindex(losses.shape) if np.isfinite(losses[i, j])]
    words = [f"{steps[i]:+.2g}, {steps[j]:+.2g}: loss {losses[i, j]:.3g}" for i, j in places]
    hover_points(axes, [float(steps[i]) for i, _ in places], [float(steps[j]) for _, j in places], words)


def _plane(found: Findings, row: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """Steps (K,) and losses (K, K) of a row; None where some are missing."""
    rows: list[npt.NDArray[Any]] = []
    steps: npt.NDArray[Any] | None = None
    while (piece := found.pieces.get(f"{row}/plane.{len(rows)}")) is not None:
        steps = floats(piece["steps"])
        rows.append(floats(piece["losses"]))
    if steps is None or len(rows) != len(steps):
        return None
    return steps, np.stack(rows)


@of_analysis("curvature", "curvature", "Curvature of the minimum", place=83)
def curvature_plot(run: RunData, found: Findings) -> Plot | None:
    """Largest eigenvalue and trace of the Hessian of the task loss."""
    names = [row.name for row in run.results.rows if f"{row.name}/eigenvalues" in found.pieces]
    names = [name for name in names if f"{name}/trace" in found.pieces]
    if not names:
        return None
    style = looks([row.name for row in run.results.rows])
    figure = new_figure(1.3 + 0.34 * len(names))
    largest, trace = add_panels(figure, 2)
    for place, name in enumerate(names):
        values, estimate = found.pieces[f"{name}/eigenvalues"], found.pieces[f"{name}/trace"]
        color, marker = style[name].color, style[name].marker
        for number, value in enumerate(floats(values["largest"])):
            largest.plot(value, place, marker=marker, color=color, alpha=1 if number == 0 else 0.35, linestyle="none")
        trace.errorbar(
            float(estimate["mean"]),
            place,
            xerr=1.96 * float(estimate["standard_error"]),
            fmt=marker,
            color=color,
            capsize=3,
        )
    finish_rows(largest, names, "largest eigenvalues")
    finish_rows(trace, names, "trace, with its 95 % interval")
    reading = (
        "Of the Hessian of the task loss at the student's weights, on training images: the smaller, the flatter. "
        "Eigenvalues by Lanczos, the largest dark; trace by Hutchinson's estimate. Weights that a batch norm makes "
        "free of scale count in both, so that they compare between rows of one layout alone."
    )
    return Plot("curvature", "Curvature of the minimum", reading, figure)
