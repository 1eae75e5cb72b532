"""Levels of two pyramids that methods compare: they are to have one stride."""

from __future__ import annotations

import math
from collections.abc import Sequence

from understudy.core.tap_shapes import TapShapes
from understudy.core.taps import TapShape
from understudy.methods.base import Method
from understudy.methods.shared.stages import StageConfig, StageMethod
from understudy.utils.errors import UserError

__all__ = ["refuse_levels_apart"]

_LEVEL = "stages."


def refuse_levels_apart(method: Method) -> None:
    """Refuse levels that go together by their order alone, and whose strides differ by a power of two.

    Whoever names the levels of both sides gets them.

    Raises:
        UserError: naming the levels, and the settings under which levels of one stride go together.
    """
    config = method.config
    if not isinstance(method, StageMethod) or not isinstance(config, StageConfig):
        return
    if config.student_stages is not None and config.teacher_stages is not None:
        return
    apart = [pair for pair in method.pairs if _differ_by_halves(pair.student_shape, pair.teacher_shape)]
    if not apart:
        return
    first = apart[0]
    ours, theirs = _of_like_sizes(method.context.student, method.context.teacher)
    way_out = (
        f"set method.student_stages={ours} method.teacher_stages={theirs} (of a row of a comparison, method: {{name: "
        f"{method.name}, student_stages: {ours}, teacher_stages: {theirs}}})"
        if ours
        else "take another teacher"
    )
    raise UserError(
        f"method {method.name!r}: {first.student} of the student ({_size(first.student_shape)} positions) and "
        f"{first.teacher} of the teacher ({_size(first.teacher_shape)}) are levels of other strides; {way_out}"
    )


def _differ_by_halves(one: TapShape, other: TapShape) -> bool:
    """Whether one map is 2, 4, 8 ... times as high and wide as the other; networks with a size of their own are not."""
    (a, b), (c, d) = sorted([(one.height or 1, one.width or 1), (other.height or 1, other.width or 1)])
    return any((a, b) == (-(-c // factor), -(-d // factor)) and (a, b) != (c, d) for factor in (2, 4, 8, 16))


def _of_like_sizes(student: TapShapes, teacher: TapShapes) -> tuple[list[int], list[int]]:
    """Numbers of the levels that have about as many positions on both sides; those of a single one tell nothing.

    A pyramid over images of a size of its own (SSD's) has none of the other's sizes.
    """
    theirs = [_positions(teacher[name]) for name in _levels(teacher)]
    found: dict[int, int] = {}  # of the student's level by the teacher's
    for place, count in enumerate(_positions(student[name]) for name in _levels(student)):
        nearest = min(range(len(theirs)), key=lambda level: abs(math.log(theirs[level] / count)))
        if count > 1 and theirs[nearest] > 1 and 0.5 < theirs[nearest] / count < 2 and nearest not in found:
            found[nearest] = place
    return list(found.values()), list(found)


def _levels(shapes: TapShapes) -> Sequence[str]:
    names = [name for name in shapes if name.startswith(_LEVEL)]
    return sorted(names, key=lambda name: int(name.removeprefix(_LEVEL)))


def _positions(shape: TapShape) -> int:
    return (shape.height or 1) * (shape.width or 1)


def _size(shape: TapShape) -> str:
    return f"{shape.height or 1} x {shape.width or 1}"
