"""Several runs whose teachers differ: what students come to by the size, and by the score, of their teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from understudy.report.figures.hover import hover_points
from understudy.report.figures.rows import images_of, measured
from understudy.report.figures.style import (
    STYLE,
    TEACHER_COLOR,
    Plot,
    RowLook,
    add_panels,
    legend_columns,
    looks,
    new_figure,
    shortened,
)
from understudy.report.formatting import compact, score, score_spread, with_unit
from understudy.report.several import NamedRun
from understudy.results.schema import Results, Row
from understudy.tasks import Metric

__all__ = ["teachers_plot"]

_LOG_FROM = 4  # times the smallest teacher


@dataclass(frozen=True, slots=True)
class _Student:
    """A row of one run, above its teacher."""

    run: str
    results: Results
    row: Row

    @property
    def parameters(self) -> float:
        parameters = self.results.teacher.parameters if self.results.teacher else None
        return math.nan if parameters is None else float(parameters)

    @property
    def teacher_score(self) -> float:
        return math.nan if self.results.teacher_score is None else self.results.teacher_score

    @property
    def mean(self) -> float:
        return self.results.score(self.row).mean

    @property
    def seeds(self) -> list[float]:
        return [value for seed in self.row.seeds if math.isfinite(value := self.results.seed_score(seed))]

    def words(self, metric: Metric) -> str:
        found = with_unit(score_spread(self.results.score(self.row), metric), metric)
        teacher = self.results.teacher.model if self.results.teacher else "no teacher"
        return f"{self.row.name}: {found} from {teacher} ({self.run})"


Place = Callable[[_Student], float]


@matplotlib.rc_context(STYLE)
def teachers_plot(runs: Sequence[NamedRun]) -> Plot | None:
    """Each row's score against its teacher's parameters and against its teacher's score, a line for each row.

    None where no row taught the same student under two teachers of other sizes or other scores.
    """
    lines = _lines(runs)
    panels: list[tuple[str, Place, Callable[[float], str]]] = [
        ("parameters of the teacher", lambda one: one.parameters, compact),
        ("score of the teacher", lambda one: one.teacher_score, lambda value: f"{value:.4g}"),
    ]
    panels = [panel for panel in panels if any(_num_places(line, panel[1]) > 1 for line in lines.values())]
    if not panels:
        return None
    metric, style = runs[0].results.metric, looks(list(lines))
    figure = new_figure(3.7)
    for axes, (title, place, in_words) in zip(add_panels(figure, len(panels)), panels, strict=True):
        _draw(axes, lines, style, place, metric)
        _finish(axes, f"{title}, {metric.unit}" if metric.unit and title.startswith("score") else title, in_words)
    _draw_teachers(figure.axes[0], runs, panels[0][1], lines)
    figure.axes[0].set_title(measured(f"{metric.title} on {images_of(runs[0].results)}", metric), pad=8)
    handles = [
        Line2D([], [], color=style[name].color, marker=style[name].marker, linestyle=style[name].dash,
               label=shortened(name))
        for name in lines
    ]  # fmt: skip
    handles.append(Line2D([], [], color=TEACHER_COLOR, marker="D", linestyle="none", label="the teachers themselves"))
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns(min(6, len(handles))))
    text = (
        "A line joins runs in which one student learnt by one row from unlike teachers; where it falls to the right, "
    )
    text += "the larger or better teacher made the worse student."
    if any(len(run.results.seeds) > 1 for run in runs):
        text += " Bars reach from the lowest to the highest seed."
    return Plot("teachers", "Larger and better teachers", text, figure)


def _lines(runs: Sequence[NamedRun]) -> dict[str, list[_Student]]:
    """Rows with a teacher that are in several runs, by name and, where students differ, by student."""
    found: dict[tuple[str, str], list[_Student]] = {}
    for run in runs:
        for row in run.results.rows:
            student = _Student(run.name, run.results, row)
            if run.results.teacher is not None and math.isfinite(student.mean):
                found.setdefault((row.name, row.student.model), []).append(student)
    several = {key: line for key, line in found.items() if len(line) > 1}
    names = [name for name, _ in several]
    return {name if names.count(name) == 1 else f"{name}, {model}": line for (name, model), line in several.items()}


def _num_places(line: Sequence[_Student], place: Place) -> int:
    return len({x for one in line if math.isfinite(x := place(one))})


def _draw(
    axes: Axes, lines: dict[str, list[_Student]], style: dict[str, RowLook], place: Place, metric: Metric
) -> None:
    told: list[tuple[float, float, str]] = []
    for name, line in lines.items():
        there = sorted((one for one in line if math.isfinite(place(one))), key=place)
        look, x = style[name], [place(one) for one in there]
        axes.plot(x, [one.mean for one in there], color=look.color, linestyle=look.dash, marker=look.marker,
                  markersize=7, markeredgecolor="white")  # fmt: skip
        for one in there:
            if len(one.seeds) > 1:
                axes.plot([place(one)] * 2, [min(one.seeds), max(one.seeds)], color=look.color, alpha=0.45, linewidth=2)
            told.append((place(one), one.mean, one.words(metric)))
    hover_points(axes, [x for x, _, _ in told], [y for _, y, _ in told], [words for _, _, words in told])


def _draw_teachers(axes: Axes, runs: Sequence[NamedRun], place: Place, lines: dict[str, list[_Student]]) -> None:
    """What each teacher reaches itself, where it stands."""
    metric = runs[0].results.metric
    ones = {one.run: one for line in lines.values() for one in line if math.isfinite(one.teacher_score)}
    there = [one for one in ones.values() if math.isfinite(place(one))]
    axes.plot([place(one) for one in there], [one.teacher_score for one in there], "D", color=TEACHER_COLOR,
              markersize=6, markeredgecolor="white")  # fmt: skip
    words = [
        f"{one.results.teacher.model if one.results.teacher else 'teacher'} itself: "
        f"{with_unit(score(one.teacher_score, metric), metric)}"
        for one in there
    ]
    hover_points(axes, [place(one) for one in there], [one.teacher_score for one in there], words)


def _finish(axes: Axes, title: str, in_words: Callable[[float], str]) -> None:
    low, high = axes.get_xlim()
    places = [x for line in axes.lines for x in map(float, line.get_xdata()) if math.isfinite(x)]  # type: ignore[arg-type]
    if places and min(places) > 0 and max(places) / min(places) > _LOG_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
    elif low < high:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_words(value)))
    axes.set_xlabel(title)
    axes.margins(x=0.12, y=0.1)
