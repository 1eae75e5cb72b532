"""Teachers beside the first, each for one head of the student."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import Field

from understudy.core.batch import IMAGES, MAIN
from understudy.core.config import Config
from understudy.core.heads import CLASS_HEAD, DISTILLED_HEAD
from understudy.core.image_size import ImageSize
from understudy.utils.errors import shortened_repr

__all__ = ["FurtherTeacher", "checked_heads", "without_left_out"]

T = TypeVar("T", bound=Mapping[str, object])
_OF_THE_FIRST = (CLASS_HEAD, MAIN, IMAGES)  # what methods read there is the first teacher's


class FurtherTeacher(Config):
    """A network that one head of the student learns from, and no other."""

    model: str  # as the teacher's
    weights: str | None = None  # as the teacher's
    kwargs: dict[str, Any] = Field(default_factory=dict)  # as the teacher's
    image_size: ImageSize | None = None  # as the teacher's


def without_left_out(also: Any) -> Any:
    """The further teachers as they were written, without those that a later layer has set to null; null: none."""
    if also is None:
        return {}
    return {head: told for head, told in also.items() if told is not None} if isinstance(also, Mapping) else also


def checked_heads(also: T) -> T:
    """The further teachers by head, where every name can be a head's that learns from another than the first.

    Raises:
        ValueError: naming the one that cannot.
    """
    for head in also:
        if head in _OF_THE_FIRST:
            raise ValueError(
                f"{head!r} is no head that has a teacher of its own: teacher.model is the one of all others; name a "
                f"distillation token's head, such as {DISTILLED_HEAD}2"
            )
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", head):  # it is a folder's name in a bank
            raise ValueError(f"{shortened_repr(head)} is no name of a head, such as {DISTILLED_HEAD}2")
    return also
