"""Embeddings of teacher and students, laid out in a plane."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from understudy.report.figures.found import add_grid, chosen_rows, of_analysis
from understudy.report.figures.style import Plot, legend_columns, new_figure, shortened
from understudy.report.kept_findings import Findings
from understudy.report.run_data import RunData

__all__ = ["embeddings_plot"]

MOST_NETWORKS = 4  # of which the teacher is one
MOST_IMAGES = 300
MOST_NAMED = 10  # classes with a key


@of_analysis("embeddings", "embeddings", "Embeddings", place=89)
def embeddings_plot(run: RunData, found: Findings) -> Plot | None:
    """Principal components and t-SNE of the same validation images in every network."""
    rows = [row.name for row in run.results.rows if f"{row.name}/pca/places" in found.tensors]
    rows_here = {row.name for row in run.results.rows}
    teacher = [
        name
        for tensor in found.tensors
        if (name := tensor.removesuffix("/pca/places")) != tensor
        and (name == "teacher" or name.startswith("teacher of "))
        and name not in rows_here
    ][: MOST_NETWORKS - 1]
    names = [*teacher, *chosen_rows(run, rows, MOST_NETWORKS - len(teacher))]
    if not names:
        return None
    kinds = [kind for kind in ("pca", "tsne") if any(f"{name}/{kind}/places" in found.tensors for name in names)]
    figure = new_figure(2.7)
    grid = add_grid(figure, len(names) * len(kinds), columns=len(names))
    panels = [(kind, name) for kind in kinds for name in names]
    for axes, (kind, name) in zip(grid, panels, strict=True):
        _draw(axes, found, f"{name}/{kind}", run.results.data.num_classes)
        axes.set_title(f"{shortened(name, 14)}, {'PCA' if kind == 'pca' else 't-SNE'}", pad=6)
    num_classes = run.results.data.num_classes
    if num_classes <= MOST_NAMED:
        keys = [
            Line2D([], [], marker="o", linestyle="none", color=_color(number, num_classes), label=_name(run, number))
            for number in range(num_classes)
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=legend_columns(10))
    problems = sorted({str(piece["problem"]) for piece in found.pieces.values() if "problem" in piece})
    reading = (
        "Each point is a validation image, coloured by its class: what a network tells apart lies apart. PCA keeps "
        "distances along its two largest directions; t-SNE keeps neighbours, and its distances between groups mean "
        "nothing."
    )
    return Plot("embeddings", "Embeddings", reading, figure, tuple(problems))


def _draw(axes: Axes, found: Findings, key: str, num_classes: int) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if f"{key}/places" not in found.tensors:
        return
    places = np.asarray(found.tensors[f"{key}/places"], dtype=np.float64)
    labels = np.asarray(found.tensors[f"{key}/labels"])
    kept = np.unique(np.linspace(0, len(places) - 1, MOST_IMAGES).round().astype(int))
    colors = [_color(int(number), num_classes) for number in labels[kept]]
    axes.scatter(places[kept, 0], places[kept, 1], s=6, c=colors, linewidths=0)


def _color(number: int, num_classes: int) -> tuple[float, float, float, float]:
    if num_classes <= MOST_NAMED:
        return colormaps["tab10"](number % 10)
    return colormaps["turbo"](number / max(1, num_classes - 1))


def _name(run: RunData, number: int) -> str:
    return shortened(run.results.data.class_name(number), 12)
