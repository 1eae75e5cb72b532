"""Students beside their teacher: fidelity, relations, similarity of layers, equivariance, embeddings, projectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from understudy.report.figures.found import add_grid, add_legend, chosen_rows, make_log, of_analysis
from understudy.report.figures.rows import finish_rows
from understudy.report.figures.style import TEACHER_COLOR, Plot, RowLook, add_panels, looks, new_figure, shortened
from understudy.report.kept_findings import Findings, floats
from understudy.report.run_data import RunData

__all__ = ["equivariance_plot", "fidelity_plot", "projection_plot", "relations_plot", "similarity_plot"]

MOST_PANELS = 6
MOST_CELLS = 30  # a side, of a drawn matrix
TEACHER_LOOK = RowLook(TEACHER_COLOR, "dashed", "D")


def _names(run: RunData, found: Findings) -> list[str]:
    """The rows that something was found of, each beside every teacher, and the teachers."""
    pieces = [name for name in found.pieces if "problem" not in found.pieces[name]]
    rows = [name for row in run.results.rows for name in pieces if _row_of(name) == row.name]
    return [*rows, *(name for name in pieces if _row_of(name) == "teacher" and name not in rows)]


def _row_of(name: str) -> str:
    """The row that a name is of, which may say beside which teacher; "teacher" of every teacher."""
    return "teacher" if name.startswith("teacher of ") else name.partition(" beside the teacher of ")[0]


def _looks(run: RunData, names: Sequence[str]) -> dict[str, RowLook]:
    style = looks([row.name for row in run.results.rows])
    return {name: style.get(_row_of(name), TEACHER_LOOK) for name in names}


def _drawn(run: RunData, names: Sequence[str]) -> list[str]:
    """As many as there is room for, the most telling rows first."""
    rows = chosen_rows(run, [_row_of(name) for name in names], MOST_PANELS)
    return [name for row in rows for name in names if _row_of(name) == row][:MOST_PANELS]


@of_analysis("fidelity", "fidelity", "Fidelity to the teacher", place=84)
def fidelity_plot(run: RunData, found: Findings) -> Plot | None:
    """Difference of class correlations between student and teacher, by row."""
    names = [name for name in _names(run, found) if f"{name}/apart" in found.tensors]
    drawn = _drawn(run, names)
    if not drawn:
        return None
    figure = new_figure(2.9)
    tables = {name: _binned(np.asarray(found.tensors[f"{name}/apart"], dtype=np.float64)) for name in drawn}
    most = max(float(np.nanmax(np.abs(table))) for table in tables.values()) or 1.0
    grid = add_grid(figure, len(drawn), columns=4)
    for axes, name in zip(grid, drawn, strict=True):
        shades = _draw_matrix(axes, tables[name], -most, most, "RdBu_r")
        axes.set_title(shortened(name), pad=6)
    figure.colorbar(shades, ax=grid, shrink=0.8, label="correlation, student - teacher")
    reading = (
        "How two classes go together in the student's logits over the validation images, less how they do in the "
        "teacher's: white is the teacher's own view of which classes are alike (DOT, figure 7)."
    )
    return Plot(
        "fidelity", "Fidelity to the teacher", reading, figure, tuple(_fidelity_of(n, found.pieces[n]) for n in names)
    )


def _fidelity_of(name: str, piece: Any) -> str:
    wrong = int(piece["num_wrong"])
    where = (
        f"; on the {wrong:,} images that the teacher gets wrong, {float(piece['agreement_where_wrong']):.0f} % the "
        f"same mistake and {float(piece['right_where_wrong']):.0f} % right"
        if wrong
        else ""
    )
    return (
        f"{name}: says what the teacher says on {float(piece['agreement']):.1f} % of the images, KL "
        f"{float(piece['kl']):.3f} nats, correlations off by {float(piece['correlation_gap']):.3f}{where}."
    )


@of_analysis("relations", "relations", "Relations with the teacher", place=85)
def relations_plot(run: RunData, found: Findings) -> Plot | None:
    """Distributions of the per-image and per-class correlation with the teacher's probabilities."""
    names = _names(run, found)
    if not names:
        return None
    style = _looks(run, names)
    figure = new_figure(1.3 + 0.34 * len(names))
    for axes, kind in zip(add_panels(figure, 2), ("image", "class"), strict=True):
        for place, name in enumerate(names):
            values = np.asarray(found.tensors[f"{name}/per_{kind}"], dtype=np.float64)
            values = values[np.isfinite(values)]
            if not len(values):
                continue
            low, quarter, middle, upper, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
            axes.plot([low, high], [place, place], color=style[name].color, linewidth=1)
            axes.plot([quarter, upper], [place, place], color=style[name].color, linewidth=5, alpha=0.5)
            axes.plot(middle, place, color=style[name].color, marker=style[name].marker, linestyle="none")
        finish_rows(axes, names, f"Pearson correlation per {kind}")
    reading = (
        "DIST's two relations: of an image's probabilities over the classes, and of a class's over the images, student "
        "with teacher; 1 is the teacher's. Mark: the median; thick: the middle half; thin: the middle 90 %."
    )
    return Plot("relations", "Relations with the teacher", reading, figure)


@of_analysis("similarity", "similarity", "Similarity of layers", place=86, tasks=("classification", "detection"))
def similarity_plot(run: RunData, found: Findings) -> Plot | None:
    """Linear CKA of every layer of the student with every layer of the teacher."""
    names = _drawn(run, [name for name in _names(run, found) if f"{name}/cka" in found.tensors])
    if not names:
        return None
    figure = new_figure(2.9)
    grid = add_grid(figure, len(names), columns=4)
    for place, (axes, name) in enumerate(zip(grid, names, strict=True)):
        table = np.asarray(found.tensors[f"{name}/cka"], dtype=np.float64)
        shades = _draw_matrix(axes, table, 0.0, 1.0, "cividis")
        ours, theirs = ([_layer(str(layer)) for layer in found.pieces[name][side]] for side in ("student", "teacher"))
        axes.set_xticks(np.arange(len(theirs)) + 0.5, theirs)
        axes.set_yticks(np.arange(len(ours)) + 0.5, ours)
        axes.set_xlabel("teacher's layer")
        axes.set_ylabel("student's layer" if place == 0 else "")
        axes.set_title(shortened(name), pad=6)
    figure.colorbar(shades, ax=grid, shrink=0.8, label="linear CKA")
    reading = (
        "1: two layers see the validation images alike up to a rotation. Numbers are stages, e is the embedding. "
        "Unbiased over minibatches (Kornblith et al. 2019, Nguyen et al. 2021)."
    )
    return Plot("similarity", "Similarity of layers", reading, figure)


def _layer(name: str) -> str:
    group, _, number = name.partition(".")
    return "e" if name == "embedding" else str(int(number) + 1) if group == "stages" else shortened(name, 8)


@of_analysis("equivariance", "equivariance", "Translation equivariance", place=87)
def equivariance_plot(run: RunData, found: Findings) -> Plot | None:
    """mu_T of the blocks of every network, from its input to its output."""
    names = _names(run, found)
    if not names:
        return None
    style = _looks(run, names)
    figure = new_figure(3.4)
    axes = figure.add_subplot()
    for name in names:
        blocks = list(found.pieces[name]["blocks"].values())
        values = floats([block["relative"] for block in blocks])
        errors = floats([block["standard_error"] or 0.0 for block in blocks])
        x = np.linspace(0, 1, len(blocks)) if len(blocks) > 1 else np.array([0.5])
        look = style[name]
        axes.errorbar(
            x, values, yerr=errors, color=look.color, linestyle=look.dash, marker=look.marker, markersize=4, label=name
        )
    axes.set_xticks([0, 1], ["first block", "last block"])
    axes.set_ylabel("mu_T, share of the output's size")
    add_legend(figure, style, names)
    reading = (
        "How much a block's output changes beyond moving when its input is moved by a place: 0 is a convolution's, "
        "more comes of position codes and borders (projector paper, eq. 13, 14, table 7; shifts and scale are not "
        "published, so that values compare within this page). Bars are standard errors over images."
    )
    return Plot("equivariance", "Translation equivariance", reading, figure)


@of_analysis("projection", "projection", "Projectors beside their fixed point", place=88)
def projection_plot(run: RunData, found: Findings) -> Plot | None:
    """Singular values of W_p, of C_s^-1 C_st and of the whitened fixed point."""
    names = [name for name in _names(run, found) if f"{name}/spectrum_weights" in found.tensors][:MOST_PANELS]
    if not names:
        return None
    style = looks([row.name for row in run.results.rows])
    figure = new_figure(3.2)
    kinds = (
        ("weights", "W_p", "solid"),
        ("solution", "C_s^-1 C_st", "dashed"),
        ("whitened", "C_st, whitened", "dotted"),
    )
    for axes, name in zip(add_panels(figure, len(names)), names, strict=True):
        for kind, label, dash in kinds:
            values = np.asarray(found.tensors[f"{name}/spectrum_{kind}"], dtype=np.float64)
            axes.plot(
                np.arange(1, len(values) + 1),
                values / values.max(),
                linestyle=dash,
                color=style[name].color,
                label=label,
            )
        axes.set_title(shortened(name), pad=6)
        axes.set_xlabel("singular value")
        make_log(axes)
        axes.legend()
    sentences = tuple(_projection_of(name, found.pieces[name]) for name in names)
    reading = (
        "The learnt projector beside where its gradient flow ends under a squared loss, C_st - C_s W_p = 0, and under "
        "whitened student features, W_p = C_st (projector paper, eq. 7 to 9); each over its largest singular value."
    )
    return Plot("projection", "Projectors beside their fixed point", reading, figure, sentences)


def _projection_of(name: str, piece: Any) -> str:
    return (
        f"{name} ({piece['normalisation']} normalisation): cosine {float(piece['alignment']):.2f} between W_p and "
        f"C_s^-1 C_st, {float(piece['alignment_whitened']):.2f} on whitened features."
    )


def _draw_matrix(axes: Axes, table: npt.NDArray[np.float64], low: float, high: float, colors: str) -> Any:
    """Cells as shapes, since a page may not load images."""
    if table.ndim != 2:
        raise ValueError(f"a table has two axes, not {table.ndim}")
    shades = axes.pcolormesh(np.ma.masked_invalid(table), vmin=low, vmax=high, cmap=colors, linewidth=0)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    return shades


def _binned(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """At most MOST_CELLS a side: means over blocks of neighbouring classes."""
    if max(table.shape) <= MOST_CELLS:
        return table
    edges = [np.linspace(0, side, MOST_CELLS + 1).round().astype(int)[:-1] for side in table.shape]
    sums = np.add.reduceat(np.add.reduceat(np.nan_to_num(table), edges[0], axis=0), edges[1], axis=1)
    counts = np.add.reduceat(np.add.reduceat(np.isfinite(table).astype(float), edges[0], axis=0), edges[1], axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts)
