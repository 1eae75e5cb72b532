"""Which images only the student, only the teacher, or neither gets right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from understudy.analysis import Outcomes, outcomes
from understudy.report.figures.base import register_figure
from understudy.report.figures.hover import hover_points
from understudy.report.figures.rows import ROW_INCHES, finish_rows, images_of
from understudy.report.figures.style import (
    GREY,
    Plot,
    is_narrow,
    new_figure,
)
from understudy.report.run_data import RunData

__all__ = ["outcome_plot"]


# No row has these colours (Paul Tol's muted scheme, safe for colour blindness).
_OUTCOMES = (("only the student is right", "#332288"), ("only the teacher is right", "#DDCC77"), ("both wrong", GREY))


@register_figure("outcomes", place=60)
def outcome_plot(run: RunData) -> Plot | None:
    """Of every row: which images only the student, only the teacher, or neither gets right."""
    predictions = run.predictions
    if predictions is None or predictions.teacher is None or not predictions.rows:
        return None
    figure = new_figure((2.0 if is_narrow() else 1.3) + ROW_INCHES * len(predictions.rows))
    axes = figure.add_subplot()
    lengths: list[float] = []
    told: list[str] = []
    for y, said_by_seed in enumerate(predictions.rows.values()):
        found = [outcomes(said, predictions.teacher, predictions.labels) for said in said_by_seed]
        start = 0.0
        for (label, color), lists in zip(
            _OUTCOMES, zip(*((o.only_student, o.only_teacher, o.both_wrong) for o in found), strict=True), strict=True
        ):
            share = 100 * float(np.mean([len(images) for images in lists])) / len(predictions.labels)
            axes.barh(y, share, left=start, height=0.62, color=color, label=label if y == 0 else None)
            start += share
        text = f"both right: {100 - start:.1f} %"
        axes.annotate(
            text,
            (start, y),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color="#33373d",
            annotation_clip=False,
        )
        lengths.append(start)
        told.append(_told(list(predictions.rows)[y], found, len(predictions.labels)))
    axes.set_xlim(0, max(lengths, default=1) * (2.4 if is_narrow() else 1.32) or 1)
    hover_points(axes, [length / 2 for length in lengths], list(range(len(lengths))), told)
    finish_rows(axes, list(predictions.rows), f"% of {images_of(run.results)}, mean over seeds")
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= min(100, axes.get_xlim()[1])])
    figure.legend(loc="outside lower center", ncols=1 if is_narrow() else 3)
    text = (
        "Sand is what the student failed to learn from the teacher, grey what neither gets right: the less of both, "
        "the better; indigo is what the student knows and the teacher does not: the more, the better."
    )
    return Plot("outcomes", "Where student and teacher are right and wrong", text, figure)


def _told(row: str, found: Sequence[Outcomes], num_images: int) -> str:
    def share(lists: Sequence[int]) -> str:
        return f"{100 * float(np.mean(lists)) / num_images:.1f} %"

    return (
        f"{row}: only the student {share([len(o.only_student) for o in found])}, only the teacher "
        f"{share([len(o.only_teacher) for o in found])}, both wrong {share([len(o.both_wrong) for o in found])}"
    )
