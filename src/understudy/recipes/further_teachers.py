"""Teachers beside the first, each for one head of the student."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from understudy.core.config import Config
from understudy.core.image_size import ImageSize

__all__ = ["FurtherTeacher"]


class FurtherTeacher(Config):
    """A network that one head of the student learns from, and no other."""

    model: str  # as the teacher's
    weights: str | None = None  # as the teacher's
    kwargs: dict[str, Any] = Field(default_factory=dict)  # as the teacher's
    image_size: ImageSize | None = None  # as the teacher's
