"""The figures of a page as it shows them: drawn for a screen and for a phone, with what they tell under a pointer."""

from __future__ import annotations

import json
from dataclasses import dataclass

from understudy.report.figures.base import Lacking, all_figures
from understudy.report.figures.style import Plot, narrow
from understudy.report.run_data import RunData

__all__ = ["Drawing", "ShownFigure", "drawing", "shown", "shown_figures"]


@dataclass(frozen=True, slots=True)
class Drawing:
    """An <svg> element, and what it tells as JSON."""

    svg: str
    hover: str


@dataclass(frozen=True, slots=True)
class ShownFigure:
    """A section of the page: a figure twice, or, without drawings, why there is none."""

    name: str
    title: str
    reading: str
    sentences: tuple[str, ...] = ()
    wide: Drawing | None = None
    narrow: Drawing | None = None

    @property
    def is_lacking(self) -> bool:
        """Whether it says only what it lacks."""
        return self.wide is None


def shown_figures(run: RunData, *, salt: str = "") -> list[ShownFigure]:
    """Every figure of a run, in the order of the page.

    Args:
        run: what is drawn.
        salt: keeps the figures of several runs on one page apart.
    """
    wide = all_figures(run)
    with narrow():
        small = {figure.name: figure for figure in all_figures(run)}
    return [shown(figure, small.get(figure.name), salt=salt) for figure in wide]


def shown(figure: Plot | Lacking, small: Plot | Lacking | None, *, salt: str = "") -> ShownFigure:
    """One figure, and the same one for a phone."""
    if isinstance(figure, Lacking):
        return ShownFigure(figure.name, figure.title, figure.why)
    beside = drawing(small, salt=f"{salt}-narrow") if isinstance(small, Plot) else None
    return ShownFigure(
        figure.name, figure.title, figure.reading, tuple(figure.sentences), drawing(figure, salt=salt), beside
    )


def drawing(plot: Plot, *, salt: str = "") -> Drawing:
    """The plot as text."""
    svg = plot.svg(salt)  # first, since it lays the figure out
    return Drawing(svg, json.dumps(plot.hover(), ensure_ascii=False, separators=(",", ":")))
