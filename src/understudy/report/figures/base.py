"""What every figure is: a function of a run, registered under its name and its place on the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib

from understudy.report.figures.style import STYLE, Plot
from understudy.report.run_data import RunData
from understudy.utils.errors import UserError

__all__ = ["FIGURES", "Draw", "Figure", "Lacking", "all_figures", "all_plots", "register_figure"]


@dataclass(frozen=True, slots=True)
class Lacking:
    """A figure that belongs on the page of such a run, and whose numbers the run does not hold."""

    name: str  # as the Plot's would be
    title: str
    why: str  # a sentence: what is not there, and which setting or command would bring it


Draw = Callable[[RunData], Plot | Lacking | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that a page may have: where it stands, and what draws it."""

    place: int
    draw: Draw


FIGURES: dict[str, Figure] = {}


def register_figure(name: str, *, place: int = 100) -> Callable[[Draw], Draw]:
    """Let the page of every run have a figure: `@register_figure("seeds")` above the function that draws it.

    The function is given the run and draws in the style of the page; where a run of this kind has nothing to draw it
    returns None, where it could have had, a `Lacking` that says why and what would bring it. It is called once more
    for a phone, where `new_figure` is narrow. One that is defined anew, as in a notebook, replaces itself.

    Args:
        name: of the figure, which the Plot has too: a word, unique on a page.
        place: figures of lower numbers stand first, those of one place by name; this package's are 10, 20, ... 60.

    Raises:
        ValueError: another figure has that name.
    """

    def registered(draw: Draw) -> Draw:
        known = FIGURES.get(name)
        if known is not None and known.draw.__qualname__ != draw.__qualname__:
            raise ValueError(f"there is a figure {name!r} already: {known.draw.__module__}")
        styled = matplotlib.rc_context(STYLE)(draw)
        FIGURES[name] = Figure(place, styled)
        return styled

    return registered


def all_plots(run: RunData) -> list[Plot]:
    """Every figure that the run has the numbers for, in the order of the page.

    Raises:
        UserError: the figure of another package cannot be drawn; the text names both.
    """
    return [found for found in all_figures(run) if isinstance(found, Plot)]


def all_figures(run: RunData) -> list[Plot | Lacking]:
    """Likewise, with those that say what they lack in their places."""
    in_order = sorted(FIGURES.items(), key=lambda item: (item[1].place, item[0]))
    return [found for name, figure in in_order if (found := _drawn(name, figure.draw, run)) is not None]


def _drawn(name: str, draw: Draw, run: RunData) -> Plot | Lacking | None:
    try:
        plot = draw(run)
        if plot is not None and plot.name != name:  # two sections of the page could have one name
            raise ValueError(f"its Plot is named {plot.name!r}; name it {name!r}, too")
    except Exception as error:  # whatever somebody else's code raises, at the end of a long training
        if draw.__module__.startswith("understudy."):
            raise
        raise UserError(
            f"the figure {name!r} of {draw.__module__} cannot be drawn: {type(error).__name__}: {error}; results.json "
            f"is whole, and `understudy report {run.folder}` makes the page once the figure is mended or uninstalled"
        ) from error
    return plot
