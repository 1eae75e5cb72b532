"""What students cost beside their teacher, in one sentence."""

from __future__ import annotations

from understudy.report.formatting import share_of, size_ratio
from understudy.report.run_data import Timing
from understudy.results.schema import Results, Row
from understudy.utils.text import two_digits

__all__ = ["cost_sentence"]

_MOST_SPREAD = 1.5  # of a ratio of speeds that is still said as one number


def cost_sentence(results: Results, timing: Timing | None = None) -> str | None:
    """'Each student has 1/23 of the teacher's parameters and is 9.4x as fast on this machine.', once for all rows.

    Rows whose students cost other than each other are named. None where there is nothing to hold a student against.
    """
    costs: dict[str, list[str]] = {}
    for row in results.rows:
        if clauses := _cost_clauses(results, row, timing):
            costs.setdefault(" and ".join(clauses), []).append(row.name)
    if not costs:
        return None
    if len(costs) == 1:
        (said,) = costs
        return f"{'The' if len(results.rows) == 1 else 'Each'} student {said}."
    each = [f"that of {', '.join(names)} {said}" for said, names in costs.items()]
    return f"The students cost unlike: {'; '.join(each)}."


def _cost_clauses(results: Results, row: Row, timing: Timing | None) -> list[str]:
    if results.teacher is None:
        return []
    clauses = []
    size = size_ratio(row.student.parameters, results.teacher.parameters)
    if size:
        clauses.append(f"has {share_of(size)} the teacher's parameters")
    ratio = _speed_ratio(results.teacher.model, row.student.model, timing)
    if ratio is not None:
        clauses.append(f"is {ratio}x as fast on this machine")
    return clauses


def _speed_ratio(teacher: str, student: str, timing: Timing | None) -> str | None:
    """'17', or '8 to 30' where the measurements lie further apart than by half."""
    if timing is None:
        return None
    slow, fast = timing.measured(teacher, "teacher"), timing.measured(student, "student")
    if slow is None or fast is None or not slow.images_per_second or not fast.images_per_second:
        return None
    if slow.lowest and slow.highest and fast.lowest and fast.highest:
        least, most = fast.lowest / slow.highest, fast.highest / slow.lowest
        if most > _MOST_SPREAD * least:
            return f"{two_digits(least)} to {two_digits(most)}"
    return two_digits(fast.images_per_second / slow.images_per_second)
