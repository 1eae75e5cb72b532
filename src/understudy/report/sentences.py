"""What a run says, in sentences that stay true: whatever the numbers are."""

from __future__ import annotations

import json

from understudy.core.published import Published
from understudy.report.formatting import decimal, differences, first_word, score, share_of, size_ratio, with_unit
from understudy.results.schema import ALONE, Comparison, Results, Row
from understudy.tasks import Metric

__all__ = [
    "basis_sentence",
    "best_epoch_sentence",
    "changed_sentence",
    "headline",
    "pair_sentences",
    "published_sentence",
    "row_sentence",
]

_MOST_CHANGES = 12  # that are named in a sentence; the recipe of the run has them all
_CANNOT_TELL = "these images and seeds cannot tell the rows apart"


def headline(results: Results) -> str:
    """One sentence for the first screen: the best row, what it gains, and what it keeps of the teacher.

    The epoch that the recipe selects counts (the last, unless told otherwise), on the test split where every row was
    measured there, else on the validation split. A difference whose interval spans zero is said to be none; that the
    student alone is best is said first.
    """
    best = results.best_row
    if best is None:
        return "No row came to a number: the loss is not finite in every one of them."
    kept = _kept_clause(results, best)
    return f"{_standing(results, best)}{f'; {kept}' if kept else ''}.{_selection_caveat(results)}"


def row_sentence(results: Results, row: Row) -> str:
    """'kd+dot is ahead of alone by 2.8 points (95 % interval 1.1 to 4.4).'"""
    comparison = results.comparison(row.name, ALONE)
    if row.name == ALONE or comparison is None:
        start = f"{row.name} reaches {_score(results, row)}"
    elif comparison.spans_zero:
        lead, least, most = _lead(results.metric, comparison)
        amount, low, high = differences(results.metric, abs(lead), least, most)
        way = "behind" if lead < 0 else "ahead of"
        apart = f"{way} {ALONE} by {_amount(results.metric, amount)}" if lead else f"level with {ALONE}"
        start = (
            f"{row.name} is {apart}, "
            f"{'but' if lead else 'and'} the 95 % interval, {low} to {high}, spans zero ({_CANNOT_TELL})"
        )
    else:
        start = f"{row.name} is {_difference(results, comparison, ALONE)}"
    start += _beside_clause(results, comparison) if comparison is not None and row.name != ALONE else ""
    caveat = _selection_caveat(results) if row is results.best_row else ""
    return f"{start}.{caveat}"


def pair_sentences(results: Results) -> list[str]:
    """'kd+dot is behind kd by 4.3 points (95 % interval 2.1 to 6.5).': rows against others than the student alone."""
    found = []
    for comparison in results.comparisons:
        row = results.row(comparison.row)
        if comparison.against == ALONE or comparison.split != results.split or row is None:
            continue
        if comparison.spans_zero:
            said = f"{comparison.row}'s {_not_separate(results, comparison, comparison.against)}"
        else:
            said = f"{comparison.row} is {_difference(results, comparison, comparison.against)}"
        found.append(f"{said}.")
    return found


def basis_sentence(results: Results) -> str:
    """What the headline's numbers were measured on: epoch, images, seeds."""
    where = "test images" if results.split == "test" else "validation images"
    origin = f" ({results.data.val_origin})" if results.split == "val" and results.data.val_origin else ""
    n = len(results.seeds)
    seeds = "one seed, so nothing is known of the spread" if n == 1 else f"mean ± standard deviation over {n} seeds"
    epoch = "after the last of" if results.select_on == "last" else "at the best of"
    chosen = {
        "last": "",
        "val": f", chosen on {results.data.num_val:,} validation images,",
        "test": ", chosen on these very images,",
    }[results.select_on]
    weights = " Weights are averages over the steps." if results.weights == "averaged" else ""
    epochs = f"{results.epochs} epochs" if results.epochs > 1 else "one epoch"
    what = first_word(results.metric.title)
    return f"{what} {epoch} {epochs}{chosen} on {results.num_images:,} {where}{origin}; {seeds}.{weights}"


def best_epoch_sentence(results: Results) -> str:
    """Why the best epoch is not the number to compare."""
    origin = f" ({results.data.val_origin})" if results.data.val_origin else ""
    way_out = "the headline" if results.select_on == "last" else "select_on: last"
    return (
        f"The best epoch was chosen on the same {results.data.num_val:,} validation images{origin} that it is "
        f"measured on, so it flatters; {way_out} compares rows by the last epoch."
    )


def changed_sentence(results: Results) -> str:
    """'Changed for cifar100/kd-dot/...: update.delta -0.09 (there 0.075). What was published for it is left out.'"""
    said = [f"{one.key} {_plain(one.now)} (there {_plain(one.before)})" for one in results.changed[:_MOST_CHANGES]]
    more = f" and {len(results.changed) - _MOST_CHANGES} more" if len(results.changed) > _MOST_CHANGES else ""
    name = (results.changed_from or "the recipe").removeprefix("classification/")
    return f"Changed for {name}: {', '.join(said)}{more}. What was published for it is left out."


def published_sentence(results: Results) -> str:
    """'Published: top-1 75.12 %, top-5 93.46 % (DOT, table 3 (a)); top-1 ...', the headline's source first."""
    return f"Published: {'; '.join(_reported(source, results) for source in results.published)}."


def _reported(published: Published, results: Results) -> str:
    scores = [(metric, published.scores[metric.name]) for metric in results.metrics if metric.name in published.scores]
    losses = {"task loss": published.task_loss, "distill loss": published.distill_loss}
    said = [with_unit(f"{metric.title} {decimal(value, 2)}", metric) for metric, value in scores]
    said += [f"{name} {decimal(value, 4)}" for name, value in losses.items() if value is not None]
    return ", ".join(said) + (f" ({published.cited})" if published.source else "")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _selection_caveat(results: Results) -> str:
    """A result whose epoch was chosen on the test set says so wherever it is shown."""
    if results.select_on != "test":
        return ""
    return " Its epoch was chosen on the test images that it is measured on, so the numbers flatter."


def _standing(results: Results, best: Row) -> str:
    reaches = _score(results, best)
    alone = results.row(ALONE)
    if len(results.rows) == 1:
        if best.name == ALONE or not best.methods:
            return f"The student alone reaches {reaches}; nothing was distilled in this run"
        return f"{best.name} reaches {reaches}; the run has no row {ALONE!r} to hold it against"
    if best.name == ALONE:
        return _alone_is_best(results, reaches)
    if alone is None:
        return _without_alone(results, best, reaches)
    comparison = results.comparison(best.name, ALONE)
    if comparison is None:
        metric = results.metric
        (gain,) = differences(metric, metric.worth(results.score(best).mean) - metric.worth(results.score(alone).mean))
        gained = f"{_amount(metric, gain)} {'above' if metric.higher_is_better else 'below'} the student alone"
        return f"{best.name} has the {_best(results)} mean: {reaches}, {gained} (no interval)"
    if comparison.spans_zero:
        apart = _not_separate(results, comparison, "the student alone")
        return f"{best.name} has the {_best(results)} mean, {reaches}, but its {apart}"
    return f"{best.name} is the best row: {reaches}, {_difference(results, comparison, 'the student alone')}"


def _alone_is_best(results: Results, reaches: str) -> str:
    start = f"No row is ahead of the student alone, which reaches {reaches}"
    nearest = results.best_of(row for row in results.rows if row.name != ALONE)
    if nearest is None:
        return f"{start}; no other row came to a number"
    comparison = results.comparison(nearest.name, ALONE)
    if comparison is None:
        return f"{start}; the nearest is {nearest.name} with {_score(results, nearest)}"
    if comparison.spans_zero:
        return f"{start}; the nearest is {nearest.name}, whose {_not_separate(results, comparison, ALONE)}"
    return f"{start}; the nearest, {nearest.name}, is {_difference(results, comparison, 'it')}"


def _without_alone(results: Results, best: Row, reaches: str) -> str:
    start = f"{best.name} has the {_best(results)} mean: {reaches}"
    second = results.best_of(row for row in results.rows if row is not best)
    if second is None:
        return f"{start}; no other row came to a number"
    comparison = results.comparison(best.name, second.name)
    if comparison is None:
        return f"{start}; next is {second.name} with {_score(results, second)}; there is no row {ALONE!r}"
    if comparison.spans_zero:
        return f"{start}, but its {_not_separate(results, comparison, second.name)}"
    return f"{best.name} is the best row: {reaches}, {_difference(results, comparison, second.name)}"


def _lead(metric: Metric, comparison: Comparison) -> tuple[float, float, float]:
    """By how much the one row is better than the other, and the ends of the interval."""
    if metric.higher_is_better:
        return comparison.difference, comparison.low, comparison.high
    return -comparison.difference, -comparison.high, -comparison.low


def _difference(results: Results, comparison: Comparison, against: str) -> str:
    lead, least, most = _lead(results.metric, comparison)
    amount, low, high = differences(results.metric, lead, least, most)
    if lead < 0:  # behind by a positive amount, with the interval turned round to match
        amount, low, high = differences(results.metric, -lead, -most, -least)
    way = "behind" if lead < 0 else "ahead of"
    by = _amount(results.metric, amount)
    return f"{way} {against} by {by} (95 % interval {low} to {high}{_seeds_clause(comparison)})"


def _beside_clause(results: Results, comparison: Comparison) -> str:
    """'; AP50 +22.0 (16.1 to 28.0)': by metrics that are quoted beside the headline."""
    said = []
    for metric in results.metrics:
        if (apart := comparison.beside.get(metric.name)) is not None:
            amount, low, high = differences(metric, apart.difference, apart.low, apart.high)
            said.append(f"; {metric.title} {'+' * (apart.difference > 0)}{amount} ({low} to {high})")
    return "".join(said)


def _not_separate(results: Results, comparison: Comparison, against: str) -> str:
    amount, low, high = differences(results.metric, comparison.difference, comparison.low, comparison.high)
    return (
        f"difference of {_amount(results.metric, amount)} to {against} has a 95 % interval that spans zero "
        f"({low} to {high}{_seeds_clause(comparison)}): {_CANNOT_TELL}"
    )


def _amount(metric: Metric, difference: str) -> str:
    """'2.8 points' of percentages, '0.031 nats'."""
    return f"{difference} points" if metric.is_of_100 else with_unit(difference, metric)


def _seeds_clause(comparison: Comparison) -> str:
    return " over images, with one seed" if comparison.num_seeds == 1 else ""


def _score(results: Results, row: Row) -> str:
    """'94.6 % ± 0.3'."""
    summary = results.score(row)
    mean = with_unit(score(summary.mean, results.metric), results.metric)
    return mean if summary.std is None else f"{mean} ± {score(summary.std, results.metric)}"


def _best(results: Results) -> str:
    return "highest" if results.metric.higher_is_better else "lowest"


def _kept_clause(results: Results, row: Row) -> str:
    if results.teacher is None:
        return ""
    comparison = results.comparison(row.name, ALONE)
    stands_clear = len(results.rows) == 1 or (comparison is not None and not comparison.spans_zero)
    subject = "it" if stands_clear else "the student alone" if row.name == ALONE else row.name
    size = size_ratio(row.student.parameters, results.teacher.parameters)
    at_size = f" at {share_of(size)} its parameters" if size else ""
    kept = _kept(results, row)
    if kept is None:
        return f"{subject} has {share_of(size)} the teacher's parameters" if size else ""
    return f"{subject} {kept}{at_size}"


def _kept(results: Results, row: Row) -> str | None:
    """'keeps 95.7 % of the teacher's accuracy'; None where it cannot be said."""
    metric, reached, own = results.metric, results.teacher_score, results.score(row).mean
    if reached is None or (metric.higher_is_better and reached <= 0):
        return None
    there = with_unit(score(reached, metric), metric)
    if not metric.higher_is_better:
        return f"is {'below' if own < reached else 'above'} the teacher's {there}"
    if own > reached:
        return f"is above the teacher's {there}"
    return f"keeps {decimal(100 * own / reached)} % of the teacher's {metric.word or metric.title}"
