"""The score of every row, with its interval."""

from __future__ import annotations

import math

import numpy as np

from understudy.analysis import paired_bootstrap
from understudy.report.figures.base import register_figure
from understudy.report.figures.hover import hover_points
from understudy.report.figures.rows import ROW_INCHES, finish_rows, images_of, measured, reference_line, within_percent
from understudy.report.figures.style import (
    TEACHER_COLOR,
    Plot,
    looks,
    new_figure,
)
from understudy.report.formatting import first_word, score_spread, with_unit
from understudy.report.run_data import RunData

__all__ = ["accuracy_plot"]


@register_figure("accuracy", place=30)
def accuracy_plot(run: RunData) -> Plot | None:
    """Score of every row by the headline metric: mean, interval over images and seeds, and each seed's own value."""
    results = run.results
    metric = results.metric
    rows = [row for row in results.rows if math.isfinite(results.score(row).mean)]
    if not rows or (len(results.rows) == 1 and len(results.seeds) == 1 and results.teacher is None):
        return None  # one mark on an empty axis shows nothing
    style = looks([row.name for row in results.rows])
    figure = new_figure(1.1 + ROW_INCHES * len(rows))
    axes = figure.add_subplot()
    has_interval = False
    for y, row in enumerate(rows):
        look, mean = style[row.name], results.score(row).mean
        seeds = [results.seed_score(seed) for seed in row.seeds]
        axes.plot(seeds, [y] * len(seeds), look.marker, color=look.color, alpha=0.35, markersize=5, linestyle="none")
        interval = _score_interval(run, row.name)
        if interval is not None:
            has_interval = True
            axes.plot(interval, [y, y], color=look.color, linewidth=2.2)
        axes.plot(mean, y, look.marker, color=look.color, markersize=8, markeredgecolor="white")
    if results.teacher_score is not None:
        reference_line(axes, results.teacher_score, "teacher", TEACHER_COLOR, "dashed")
    told = [f"{row.name}: {with_unit(score_spread(results.score(row), metric), metric)}" for row in rows]
    hover_points(axes, [results.score(row).mean for row in rows], list(range(len(rows))), told)
    finish_rows(axes, [row.name for row in rows], measured(f"{metric.title} on {images_of(results)}", metric))
    if metric.is_of_100:
        within_percent(axes)
    over = "images and seeds" if len(results.seeds) > 1 else "images, with one seed"
    bars = f"; bars are 95 % intervals over {over}" if has_interval else ""
    way = "right" if metric.higher_is_better else "left"
    text = f"Further {way} is better: large marks are means at the {results.epoch_words}, pale ones single seeds{bars}."
    return Plot("accuracy", f"{first_word(metric.word or metric.title)} of every row", text, figure)


def _score_interval(run: RunData, row: str) -> tuple[float, float] | None:
    if row not in run.items:
        return None
    scores = run.items[row]
    interval = paired_bootstrap(scores, np.zeros_like(scores), resamples=2_000)  # ends are drawn, not printed
    return interval.low, interval.high
