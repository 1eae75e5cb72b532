"""Numbers as people read them: one place, so that terminal, table, sentence and page never differ."""

from __future__ import annotations

import math

from understudy.analysis import Summary
from understudy.tasks import Metric

__all__ = [
    "ABSENT",
    "compact",
    "decimal",
    "differences",
    "duration",
    "first_word",
    "loss",
    "points",
    "score",
    "score_spread",
    "share_of",
    "shortened",
    "size_ratio",
    "spread",
    "with_unit",
]

ABSENT = "–"
_MOST_DIGITS = 3  # no more digits than this are ever worth reading in a percentage


def decimal(value: float | None, digits: int = 1) -> str:
    """'94.6'; a dash for None and for what is not finite; never '-0.0'."""
    if value is None or not math.isfinite(value):
        return ABSENT
    rounded = round(value, digits)
    return f"{rounded + 0.0:.{digits}f}"  # adding 0.0 turns -0.0 into 0.0


def points(*values: float) -> tuple[str, ...]:
    """Percentage points with one digit, or with as many more (up to 3) as keep a small one from reading 0.0."""
    digits = 1
    while digits < _MOST_DIGITS and any(value != 0 and round(value, digits) == 0 for value in values):
        digits += 1
    return tuple(decimal(value, digits) for value in values)


def spread(summary: Summary | None, digits: int = 1) -> str:
    """'94.6 ± 0.3', or '94.6' where there is one seed."""
    if summary is None or not math.isfinite(summary.mean):
        return ABSENT
    mean = decimal(summary.mean, digits)
    return mean if summary.std is None else f"{mean} ± {decimal(summary.std, digits)}"


def score(value: float | None, metric: Metric) -> str:
    """A score without its unit: '94.6' of percent, three digits of anything else."""
    return decimal(value) if metric.is_of_100 else loss(value)


def score_spread(summary: Summary | None, metric: Metric) -> str:
    """'94.6 ± 0.3', or '94.6' where there is one seed."""
    if summary is None or not math.isfinite(summary.mean):
        return ABSENT
    mean = score(summary.mean, metric)
    return mean if summary.std is None else f"{mean} ± {score(summary.std, metric)}"


def with_unit(text: str, metric: Metric) -> str:
    """'94.6 %', '0.31 nats', '0.82'."""
    return f"{text} {metric.unit}" if metric.unit else text


def first_word(title: str) -> str:
    """A title at the beginning of a sentence: 'Top-1', but 'mIoU'."""
    return title.capitalize() if title.islower() else title


def differences(metric: Metric, *values: float) -> tuple[str, ...]:
    """Differences of scores: percentage points as `points` writes them, three digits of anything else."""
    return points(*values) if metric.is_of_100 else tuple(f"{value + 0.0:.3g}" for value in values)


def loss(value: float | None) -> str:
    """A loss in nats: '1.94', '0.021', '3.1e-05'."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


def compact(count: float | None) -> str:
    """A count with three digits and k, M or G: '272 k', '21.3 M', '850'."""
    if count is None or not math.isfinite(count):
        return ABSENT
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(count) >= 0.9995 * unit:  # 999,600 is 1 M, not 1,000 k
            scaled = count / unit
            digits = 0 if abs(scaled) >= 99.95 else 1
            return f"{scaled:.{digits}f}".removesuffix(".0") + name
    return f"{count:.0f}"


def size_ratio(student: int | None, teacher: int | None) -> str | None:
    """The student's size in the teacher's: '1/23', '85 %', '2.5 times'; None where either is not known."""
    if not student or not teacher:
        return None
    if teacher >= 1.95 * student:
        ratio = teacher / student
        return f"1/{ratio:.0f}" if ratio >= 9.5 or abs(ratio - round(ratio)) < 0.05 else f"1/{ratio:.1f}"
    return f"{100 * student / teacher:.0f} %" if student <= 1.5 * teacher else f"{student / teacher:.1f} times"


def share_of(size: str) -> str:
    """'1/23 of', '85 % of', but '2.5 times'."""
    return size if size.endswith("times") else f"{size} of"


def duration(seconds: float | None) -> str:
    """'9 s', '1 min 12 s', '3 h 5 min'."""
    if seconds is None or not math.isfinite(seconds):
        return ABSENT
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shortened(name: str, most: int = 26) -> str:
    """A label that leaves room for the plot; cut in the middle, since long names often differ at their ends."""
    one_line = " ".join(name.split())
    if len(one_line) <= most:
        return one_line
    end = (most - 1) // 2
    return f"{one_line[: most - 1 - end].rstrip()}…{one_line[-end:].lstrip()}"
