"""Each row's lead over the student alone, and over the rows that it is held to."""

from __future__ import annotations

from understudy.report.costs import cost_sentence
from understudy.report.figures.base import register_figure
from understudy.report.figures.hover import hover_points
from understudy.report.figures.rows import ROW_INCHES, finish_rows, images_of, reference_line
from understudy.report.figures.style import (
    Plot,
    looks,
    new_figure,
)
from understudy.report.run_data import RunData
from understudy.report.sentences import pair_sentences, row_sentence
from understudy.results.schema import ALONE
from understudy.tasks import Metric

__all__ = ["difference_plot"]


@register_figure("differences", place=40)
def difference_plot(run: RunData) -> Plot | None:
    """Each row's lead over the student alone, then over other rows, with its 95 % interval."""
    results = run.results
    over_alone = [c for row in results.rows if (c := results.comparison(row.name, ALONE)) is not None]
    found = [*over_alone, *(c for c in results.comparisons if c.against != ALONE and c.split == results.split)]
    if not found:
        return None
    style = looks([row.name for row in results.rows])
    figure = new_figure(1.0 + ROW_INCHES * len(found))
    axes = figure.add_subplot()
    reference_line(axes, 0, ALONE if over_alone else "no difference", "0.4", "solid")
    for y, c in enumerate(found):
        look = style[c.row]
        axes.plot([c.low, c.high], [y, y], color=look.color, linewidth=2.2)
        face = "white" if c.spans_zero else look.color
        axes.plot(c.difference, y, look.marker, markersize=8, markerfacecolor=face, markeredgecolor=look.color)
    told = [f"{c.row} over {c.against}: {c.difference:+.1f} ({c.low:+.1f} to {c.high:+.1f})" for c in found]
    hover_points(axes, [c.difference for c in found], list(range(len(found))), told)
    names = [c.row if c.against == ALONE else f"{c.row} over {c.against}" for c in found]
    against = "the student alone" if over_alone else "the other row"
    is_mixed = 0 < len(over_alone) < len(found)
    held_to = "alone or the row named" if is_mixed else against
    finish_rows(axes, names, f"{_gained(results.metric, held_to)}, on {images_of(results)}")
    many = "; with many rows the best of them is a little lucky, and no interval here makes up for that"
    reading = f"A bar that touches the line at zero (hollow mark) is a row that cannot be told from {against}"
    reading += ", or from the row after 'over'" if is_mixed else ""
    over = f"images and {len(results.seeds)} seeds" if len(results.seeds) > 1 else "images, with one seed"
    text = f"{reading}; bars are 95 % intervals over {over}{many if len(found) > 2 else ''}."
    sentences = [row_sentence(results, row) for row in results.rows if row.name != ALONE] + pair_sentences(results)
    if (cost := cost_sentence(results, run.timing)) is not None:
        sentences.append(cost)
    title = "What distillation gave" if over_alone else "Row against row"
    return Plot("differences", title, text, figure, tuple(sentences))


def _gained(metric: Metric, against: str) -> str:
    """'points of top-1 ahead of the student alone': the row minus what it is held to, whichever way is up."""
    unit = "points" if metric.is_of_100 else metric.unit
    what = f"{unit} of {metric.title}" if unit else metric.title
    way = f"ahead of {against}" if metric.higher_is_better else f"above {against} (less is better)"
    return f"{what} {way}"
