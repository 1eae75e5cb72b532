"""The first sentence of a page: who won, by how much, and whether that is more than chance."""

from __future__ import annotations

from understudy.report.formatting import differences, score, with_unit
from understudy.report.sentences import headline
from understudy.results.schema import ALONE, Results, Row

__all__ = ["verdict"]


def verdict(results: Results) -> str:
    """'dist beats the student alone by 5.2 points of top-1 (92.1 % against 86.9 %), more than chance explains.'

    What chance explains is the paired interval over images and seeds; `headline` says it in numbers.
    """
    best, alone = results.best_row, results.row(ALONE)
    if best is None or len(results.rows) == 1:
        return headline(results)
    if alone is None:
        reaches = f"{best.name} has the best {results.metric.title}, {_reached(results, best)}"
        return f"{reaches}; without a row {ALONE!r} nothing tells what distilling gave."
    if best is alone:
        return (
            f"Distilling did not help here: no row is ahead of the student alone, which reaches "
            f"{_reached(results, alone)}."
        )
    return f"{_against_alone(results, best, alone)}{_rival_clause(results, best)}."


def _against_alone(results: Results, best: Row, alone: Row) -> str:
    metric, comparison = results.metric, results.comparison(best.name, ALONE)
    gap = metric.worth(results.score(best).mean) - metric.worth(results.score(alone).mean)
    (amount,) = differences(metric, gap)
    by = f"{amount} points of {metric.title}" if metric.is_of_100 else f"{with_unit(amount, metric)} of {metric.title}"
    both = f"({_reached(results, best)} against {_reached(results, alone)})"
    if comparison is None:
        return f"{best.name} is ahead of the student alone by {by} {both}; no interval tells whether that is chance"
    if comparison.spans_zero:
        return (
            f"No row is surely better than the student alone: {best.name} is ahead by {by} {both}, which may be chance"
        )
    is_one = len(results.seeds) == 1
    beyond = "more than the choice of images explains (one seed)" if is_one else "more than chance explains"
    return f"{best.name} beats the student alone by {by} {both}, {beyond}"


def _rival_clause(results: Results, best: Row) -> str:
    """Names the runner-up where these images and seeds cannot tell the two apart."""
    comparison = results.comparison(best.name, ALONE)
    if comparison is None or comparison.spans_zero:
        return ""
    second = results.best_of(row for row in results.rows if row is not best)
    between = None if second is None else results.comparison(best.name, second.name)
    if second is None or second.name == ALONE or between is None or not between.spans_zero:
        return ""
    return f"; {second.name} cannot be told from it"


def _reached(results: Results, row: Row) -> str:
    return with_unit(score(results.score(row).mean, results.metric), results.metric)
