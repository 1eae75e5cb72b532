"""Segmenters beside their teacher, pixel by pixel."""

from __future__ import annotations

from typing import Any

from understudy.report.figures.found import of_analysis
from understudy.report.figures.rows import ROW_INCHES, finish_rows, within_percent
from understudy.report.figures.style import Plot, looks, new_figure
from understudy.report.kept_findings import Findings
from understudy.report.run_data import RunData

__all__ = ["pixels_plot"]

_KINDS = (
    ("agreement_where_right", "o", "where the teacher is right"),
    ("agreement_where_wrong", "X", "where it is wrong"),
)


@of_analysis("pixels", "pixels", "Pixels beside the teacher", place=84, tasks=("segmentation",))
def pixels_plot(run: RunData, found: Findings) -> Plot | None:
    """Share of pixels that have the teacher's class, where it is right and where it is wrong, by row."""
    names = [row.name for row in run.results.rows if "problem" not in found.pieces.get(row.name, {"problem": ""})]
    if not names:
        return None
    style = looks([row.name for row in run.results.rows])
    figure = new_figure(1.2 + ROW_INCHES * len(names))
    axes = figure.add_subplot()
    for place, name in enumerate(names):
        for key, marker, label in _KINDS:
            value = found.pieces[name].get(key)
            if value is not None:
                axes.plot(
                    [float(value)],
                    [place],
                    marker,
                    color=style[name].color,
                    markersize=7,
                    linestyle="none",
                    label=label if not place else None,
                )
    finish_rows(axes, names, "labelled pixels with the teacher's class, %")
    within_percent(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.35), ncols=2, frameon=False)
    reading = (
        "How many labelled pixels of validation images the student gives the teacher's class, of those that the "
        "teacher gets right and of those that it gets wrong: on the latter, agreeing is copying a mistake."
    )
    return Plot("pixels", "Pixels beside the teacher", reading, figure, tuple(_said(n, found.pieces[n]) for n in names))


def _said(name: str, piece: Any) -> str:
    wrong = int(piece["num_wrong"])
    where = (
        f"; where the teacher is wrong, {float(piece['agreement_where_wrong']):.1f} % the same mistake and "
        f"{float(piece['right_where_wrong']):.1f} % right"
        if wrong
        else ""
    )
    share, count = float(piece["agreement"]), int(piece["num_pixels"])
    return f"{name}: the teacher's class on {share:.1f} % of {count:,} pixels{where}."
