"""What a reader of a page must know before believing a number."""

from __future__ import annotations

import math
from collections.abc import Iterator

from understudy.report.formatting import score, with_unit
from understudy.results.schema import ALONE, Results

__all__ = ["cautions", "guessing_rows"]

LEAST_LEARNT = 1.0  # of 100, below which a detector or segmenter has found next to nothing


def cautions(results: Results) -> list[str]:
    """Sentences, the gravest first; none where there is nothing to warn of."""
    return list(_cautions(results))


def _cautions(results: Results) -> Iterator[str]:
    for row in results.rows:
        if not math.isfinite(results.score(row).mean):
            yield f"{row.name} came to no number under at least one seed: a loss was NaN or infinite."
    yield from guessing_rows(results)
    yield from _about_what_was_learnt(results)
    if results.select_on == "test":
        yield (
            "The epoch was chosen on the very test images that it is measured on: the numbers flatter, and no other "
            "work can be compared with them (select_on: last or val)."
        )
    yield from _about_the_teacher(results)
    if len(results.seeds) == 1 and len(results.rows) > 1:
        yield "One seed: how far another would change the order of the rows is not known (--seeds 3)."
    elif len(results.seeds) == 2:
        yield "Two seeds: their spread is known badly (--seeds 3)."
    yield from _about_unlike_rows(results)


def guessing_rows(results: Results) -> Iterator[str]:
    """A sentence for each row of class scores that are no better than those of guesses, as far as its images tell."""
    if results.task != "classification" or not results.num_images:
        return
    chance = 1 / results.data.num_classes
    limit = 100 * (chance + 2 * math.sqrt(chance * (1 - chance) / results.num_images))  # two standard errors
    for row in results.rows:
        scores = row.summary.test if results.split == "test" else row.summary.scores
        found = scores.get("balanced_accuracy") or scores.get("top1")  # the former is 1/C of one class for everything
        if found is None or not found.mean <= limit:
            continue
        yield (
            f"{row.name} is no better than guessing among {results.data.num_classes} classes: {found.mean:.1f} % right "
            f"(guesses: {100 * chance:.1f} %, on {results.num_images:,} images up to {limit:.1f} %). Train longer "
            "(--epochs), and look at --lr and at the labels."
        )


def _about_what_was_learnt(results: Results) -> Iterator[str]:
    """The same of masks and boxes, of which guesses find next to nothing."""
    metric, reached = results.metric, [results.score(row).mean for row in results.rows]
    if results.task == "classification" or not metric.is_of_100 or not metric.higher_is_better:
        return
    if all(map(math.isfinite, reached)) and max(reached) < LEAST_LEARNT:
        best = with_unit(score(max(reached), metric), metric)
        yield (
            f"No row has learnt enough to be compared: the best reaches {best} of {metric.title}. Train longer "
            "(--epochs), or at another rate (--lr)."
        )


def _about_the_teacher(results: Results) -> Iterator[str]:
    reached, metric, alone = results.teacher_score, results.metric, results.row(ALONE)
    if reached is None:
        return
    own = with_unit(score(reached, metric), metric)
    if alone is not None and metric.worth(results.score(alone).mean) >= metric.worth(reached):
        student = with_unit(score(results.score(alone).mean, metric), metric)
        yield f"The teacher ({own}) is no better than the student alone ({student}): there is little to learn from it."


def _about_unlike_rows(results: Results) -> Iterator[str]:
    """Optimizer settings in which rows differ, beside the method and the update's own."""
    shared = [row.update for row in results.rows if row.update and not row.varied]
    for key in ("lr", "optimizer", "weight_decay", "momentum"):
        found = {str(update[key]): None for update in shared if key in update}
        if len(found) > 1:
            yield f"Rows differ in more than their method: {key} is {' or '.join(found)}."
    images = {str(row.student.image_size): None for row in results.rows if row.student.image_size is not None}
    if len(images) > 1:
        yield f"Students see images of different sizes: {' and '.join(images)} pixels."
