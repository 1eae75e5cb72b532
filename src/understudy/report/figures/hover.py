"""What a figure tells under the pointer: values of its lines, and words of its points, by place in the drawing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

__all__ = ["UNITS_PER_INCH", "Hover", "hover_of", "hover_points"]

Hover = list[dict[str, Any]]  # one entry for each axes that tells anything; JSON
_MOST_CELLS = 1_024  # of a table; of a larger one nobody finds a cell
_MOST_POINTS = 400  # of a line; longer ones are thinned
UNITS_PER_INCH = 72  # of an SVG of matplotlib


def hover_points(axes: Axes, x: Sequence[float], y: Sequence[float], texts: Sequence[str]) -> None:
    """Have the page tell these words where the pointer is near these points; nothing is drawn.

    Args:
        axes: where.
        x: (N,) in the data's unit.
        y: likewise.
        texts: (N,) a line or two each.
    """
    line = Line2D([], [], linestyle="none", label="_told")
    line.understudy_points = (list(x), list(y), list(texts))  # type: ignore[attr-defined]
    axes.add_line(line)


def hover_of(figure: Figure) -> Hover:
    """Of every axes: `box`, `by` ("x": all lines at the nearest x; "point": the nearest point) and `series`.

    Places are in units of the SVG. A point is [x, y, words for x, words for y].
    """
    return [panel for axes in figure.axes if (panel := _panel(axes, figure))["series"]]


def _panel(axes: Axes, figure: Figure) -> dict[str, Any]:
    told = [series for line in axes.lines if (series := _told(line, axes, figure)) is not None]
    told += [
        series
        for mesh in axes.collections
        if isinstance(mesh, QuadMesh) and (series := _cells(mesh, axes, figure)) is not None
    ]
    lines = [] if told else [_series(line, axes, figure) for line in axes.lines if _is_shown(line)]
    (left, right), (bottom, top) = zip(*_placed(axes.bbox.get_points(), figure), strict=True)
    return {
        "box": [left, min(top, bottom), right, max(top, bottom)],
        "by": "point" if told else "x",
        "x": axes.get_xlabel(),
        "series": told + [series for series in lines if series["points"]],
    }


def _is_shown(line: Line2D) -> bool:
    label = str(line.get_label())
    return bool(label) and not label.startswith("_") and line.get_linestyle() not in ("None", "none", "", " ")


def _told(line: Line2D, axes: Axes, figure: Figure) -> dict[str, Any] | None:
    points = getattr(line, "understudy_points", None)
    if points is None:
        return None
    x, y, texts = points
    places = _placed(axes.transData.transform(np.column_stack([_numbers(x), _numbers(y)])), figure)
    return {
        "name": "",
        "color": "",
        "points": [
            [*place, "", text] for place, text in zip(places, texts, strict=True) if all(map(math.isfinite, place))
        ],
    }


def _cells(mesh: QuadMesh, axes: Axes, figure: Figure) -> dict[str, Any] | None:
    """The values of a table of cells, by the names of its lines and columns where the ticks have them."""
    corners = np.asarray(mesh.get_coordinates())  # (I+1, J+1, 2)
    values: Any = np.ma.masked_invalid(np.ma.asarray(mesh.get_array()))
    if axes.get_label() == "<colorbar>" or values.ndim != 2 or values.size > _MOST_CELLS:
        return None
    centers = (corners[:-1, :-1] + corners[1:, 1:]) / 2  # (I, J, 2)
    across, down = (
        [label.get_text() for label in labels] for labels in (axes.get_xticklabels(), axes.get_yticklabels())
    )
    has_names = (len(down), len(across)) == values.shape and all([*across, *down])
    points = []
    for i, j in zip(*np.nonzero(~np.ma.getmaskarray(values)), strict=True):
        ((x, y),) = _placed(axes.transData.transform(centers[i, j][None]), figure)
        cell = f"{down[i]} with {across[j]}" if has_names else f"line {i + 1}, column {j + 1}"
        points.append([x, y, "", f"{cell}: {values[i, j]:.3g}"])
    return {"name": "", "color": "", "points": points}


def _series(line: Line2D, axes: Axes, figure: Figure) -> dict[str, Any]:
    x, y = (np.asarray(values, dtype=np.float64) for values in line.get_data(orig=False))
    step = max(1, math.ceil(len(x) / _MOST_POINTS))
    x, y = x[::step], y[::step]
    places = _placed(line.get_transform().transform(np.column_stack([x, y])), figure)
    points = [
        [*place, f"{a:g}", f"{b:.4g}"]
        for place, a, b in zip(places, x, y, strict=True)
        if all(map(math.isfinite, (*place, a, b)))
    ]
    return {"name": str(line.get_label()), "color": to_hex(line.get_color()), "points": points}


def _numbers(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(values, dtype=np.float64)


def _placed(pixels: Any, figure: Figure) -> Iterator[tuple[float, float]]:
    """Pixels of the canvas, counted from below, as units of the SVG, counted from above."""
    width, height = figure.bbox.size
    wide, high = figure.get_size_inches() * UNITS_PER_INCH
    for x, y in np.asarray(pixels, dtype=np.float64):
        yield round(x / width * wide, 1), round(high - y / height * high, 1)
