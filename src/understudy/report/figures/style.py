"""How figures look: one style, one colour per row everywhere, and figures as SVG text."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from understudy.report.formatting import shortened
from understudy.results.schema import ALONE

__all__ = [
    "GREY",
    "STYLE",
    "TEACHER_COLOR",
    "Plot",
    "RowLook",
    "add_panels",
    "is_narrow",
    "legend_columns",
    "looks",
    "new_figure",
    "shortened",
]

TEACHER_COLOR = "#111111"
GREY = "#8a8f98"

# Okabe and Ito's palette, which people with any colour blindness can tell apart; its yellow is too light on white.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_ALONE_COLOR = "#5f6368"
Dash = Literal["solid", "dashed", "dotted", "dashdot"]
_DASHES: tuple[Dash, ...] = ("solid", "dashed", "dotted", "dashdot")
_MARKERS = ("o", "s", "^", "D")

STYLE: Any = {  # Any: the stubs of matplotlib want a Literal key type that they do not name
    "axes.axisbelow": True,
    "axes.edgecolor": "#b6bac2",
    "axes.grid": True,
    "axes.labelcolor": "#33373d",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.09,
    "figure.facecolor": "white",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Helvetica Neue", "Arial", "sans-serif"],
    "font.size": 9.5,
    "grid.color": "#e9ebef",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # text stays text: searchable, and in scripts that the drawing machine has no font for
    "text.color": "#1d2025",
    "text.parse_math": False,  # a class called "$5" is a name, no formula
    "xtick.color": "#5f6368",
    "ytick.color": "#5f6368",
    "xtick.labelcolor": "#33373d",
    "ytick.labelcolor": "#1d2025",
    "ytick.major.size": 0,
}


@dataclass(frozen=True, slots=True)
class RowLook:
    """What tells one row from the others: colour first, then dash and marker where there are many rows."""

    color: str
    dash: Dash
    marker: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure with its title and one sentence on how to read it."""

    name: str  # a word, unique on a page
    title: str
    reading: str
    figure: Figure
    sentences: tuple[str, ...] = ()  # listed below it

    def svg(self) -> str:
        """The figure as an <svg> element; the same figure gives the same text."""
        buffer = io.StringIO()
        # The salt keeps the ids of several figures on one page apart, and the text the same on every rendering.
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": self.name}), warnings.catch_warnings():
            # Layout measures with fonts of this machine; what they lack, the reader's browser has.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        # Names of groups ("axes_1") would repeat from figure to figure; what is referred to has a salted id.
        return re.sub(r'<(\w+) id="[a-z][\w.]*_\d+"', r"<\1", text[text.index("<svg") :])


def looks(names: Sequence[str]) -> dict[str, RowLook]:
    """A look for each row by name; the student alone is grey, wherever it stands."""
    chosen = {ALONE: RowLook(_ALONE_COLOR, "solid", "o")}
    for i, name in enumerate(name for name in names if name != ALONE):
        lap, place = divmod(i, len(_PALETTE))
        chosen[name] = RowLook(_PALETTE[place], _DASHES[lap % len(_DASHES)], _MARKERS[lap % len(_MARKERS)])
    return chosen


def new_figure(height: float) -> Figure:
    """An empty figure, 10 inches wide (960 pixels of a page) and `height` inches high."""
    return Figure(figsize=(10, height), layout="constrained")


def is_narrow() -> bool:
    """Whether the figure that is being made is for a phone."""
    return False


def add_panels(figure: Figure, number: int) -> list[Axes]:
    """So many axes side by side."""
    return [figure.add_subplot(1, number, place) for place in range(1, number + 1)]


def legend_columns(most: int) -> int:
    """Columns of a legend that has room for `most` of them on a wide page."""
    return most
