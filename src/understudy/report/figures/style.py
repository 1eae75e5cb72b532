"""How figures look: one style, a colour for each method everywhere, and figures as SVG text, wide and narrow."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from understudy.optim.base import word_in_row
from understudy.report import formatting
from understudy.report.figures.hover import UNITS_PER_INCH, Hover, hover_of
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
    "narrow",
    "new_figure",
    "shortened",
]

TEACHER_COLOR = "#111111"
GREY = "#8a8f98"

# Okabe and Ito's palette, which people with any colour blindness can tell apart; its yellow is too light on white.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_ALONE_COLOR = "#5f6368"
TEACHER = "teacher"
Dash = Literal["solid", "dashed", "dotted", "dashdot"]
_DASHES: tuple[Dash, ...] = ("solid", "dashed", "dotted", "dashdot")
_MARKERS: dict[Dash, str] = {"solid": "o", "dashed": "s", "dotted": "^", "dashdot": "D"}
# Places in the palette of the methods that most tables have; any other's follows from its name.
_USUAL = {"kd": 0, "projector": 1, "dist": 2, "dkd": 3, "crd": 4, "fitnet": 5, "at": 3, "reviewkd": 4}
_WIDE, _NARROW = 10.0, 4.0  # inches: 960 pixels of a page, and 360 of a phone
_narrow: ContextVar[bool] = ContextVar("narrow", default=False)

# Colours that the page turns round in the dark, by the name of its variable.
_THEMED = {
    "#ffffff": "page",
    "#1d2025": "ink",
    "#33373d": "ink",
    "#111111": "ink",
    "#5f6368": "soft",
    "#666666": "soft",
    "#8a8f98": "grey",
    "#b6bac2": "edge",
    "#c9cdd4": "edge",
    "#e9ebef": "grid",
    "#332288": "indigo",
}

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
    """What tells one row from the others: a colour for its method, a dash and marker for its update."""

    color: str
    dash: Dash
    marker: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure with its title and one sentence on how to read it.

    The page shows the values of lines that have a label, and what `hover_points` tells, under the pointer.
    """

    name: str  # a word, unique on a page
    title: str
    reading: str
    figure: Figure
    sentences: tuple[str, ...] = ()  # listed below it

    def svg(self, salt: str = "") -> str:
        """The figure as an <svg> element; the same figure gives the same text.

        Args:
            salt: keeps the ids of another drawing of the same figure apart, on one page.
        """
        buffer = io.StringIO()
        # The salt keeps the ids of several figures on one page apart, and the text the same on every rendering.
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": self.name + salt}), warnings.catch_warnings():
            # Layout measures with fonts of this machine; what they lack, the reader's browser has.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            self.figure.dpi = UNITS_PER_INCH
            if (engine := self.figure.get_layout_engine()) is not None:
                engine.execute(self.figure)
                self.figure.set_layout_engine("none")  # or savefig would do that again, and draw all twice
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        # Names of groups ("axes_1") would repeat from figure to figure; what is referred to has a salted id.
        text = re.sub(r'<(\w+) id="[A-Za-z][\w.]*_\d+"', r"<\1", text[text.index("<svg") :])
        return re.sub(r'style="[^"]*"', lambda found: _themed(found[0]), text)

    def hover(self) -> Hover:
        """What is told under the pointer, where in the drawing; call it after `svg`, which lays the figure out."""
        return hover_of(self.figure)


def _themed(style: str) -> str:
    """A style attribute whose neutral colours are the page's variables, so that they follow dark mode."""

    def variable(found: re.Match[str]) -> str:
        name = _THEMED.get(found[2])
        return found[0] if name is None else f"{found[1]}: var(--{name}, {found[2]})"

    return re.sub(r"(fill|stroke): (#[0-9a-f]{6})", variable, style)


def looks(names: Sequence[str]) -> dict[str, RowLook]:
    """A look for each row by name; the student alone is grey, wherever it stands.

    A method has its colour on every page as far as another on the page has not taken it, and the same one under another
    update, which is dashed.
    """
    chosen = {ALONE: RowLook(_ALONE_COLOR, "solid", _MARKERS["solid"])}
    if TEACHER in names:  # its own training, on the page of a run that goes on
        chosen[TEACHER] = RowLook(TEACHER_COLOR, "dashed", "D")
    colors: dict[str, str] = {}  # of methods
    taken: set[tuple[str, Dash]] = set()
    for name in names:
        if name == ALONE or name in chosen:
            continue
        base, _, update = name.rpartition("+")
        if not base or not word_in_row(update):
            base, update = name, ""
        wanted = colors.get(base, _PALETTE[_place(base)])
        if base not in colors and wanted in colors.values():
            wanted = next((color for color in _PALETTE if color not in colors.values()), wanted)
        dashes = (*_DASHES[1:2], *_DASHES[:1], *_DASHES[2:]) if update else _DASHES
        order = [wanted, *(color for color in _PALETTE if color != wanted)]
        color, dash = next(
            ((color, dash) for dash in dashes for color in order if (color, dash) not in taken), (wanted, dashes[0])
        )
        colors.setdefault(base, color)
        taken.add((color, dash))
        chosen[name] = RowLook(color, dash, _MARKERS[dash])
    return chosen


def _place(base: str) -> int:
    """Of a method's colour in the palette."""
    return _USUAL.get(base, crc32(base.encode()) % len(_PALETTE))


@contextmanager
def narrow() -> Iterator[None]:
    """Figures that are made within are for a phone: `new_figure` is narrow, panels stand one above the other."""
    token = _narrow.set(True)
    try:
        yield
    finally:
        _narrow.reset(token)


def is_narrow() -> bool:
    """Whether the figure that is being made is for a phone."""
    return _narrow.get()


def new_figure(height: float) -> Figure:
    """An empty figure, 10 inches wide (960 pixels of a page; 4 inches for a phone) and `height` inches high."""
    return Figure(figsize=(_NARROW if is_narrow() else _WIDE, height), layout="constrained")


def add_panels(figure: Figure, number: int) -> list[Axes]:
    """So many axes side by side; one above the other, in a figure that grows by them, for a phone."""
    if not is_narrow():
        return [figure.add_subplot(1, number, place) for place in range(1, number + 1)]
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, (1 + 0.68 * (number - 1)) * height)
    return [figure.add_subplot(number, 1, place) for place in range(1, number + 1)]


def legend_columns(most: int) -> int:
    """Columns of a legend that has room for `most` of them on a wide page."""
    return min(most, 2) if is_narrow() else most


def shortened(name: str, most: int = 26) -> str:
    """A label that leaves room for the plot, as `formatting.shortened`; at most 19 characters for a phone."""
    return formatting.shortened(name, min(most, 19) if is_narrow() else most)
