"""What papers report for a recipe: percent and losses of one table, and the table's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_serializer

from understudy.core.config import Config

__all__ = ["Published", "as_list"]


class Published(Config):
    """What one table, or several that agree, report for this recipe."""

    top1: float = Field(ge=0, le=100)  # percent, as everywhere
    top5: float | None = Field(default=None, ge=0, le=100)  # percent
    task_loss: float | None = None  # nats, at the end, on the training images
    distill_loss: float | None = None  # likewise
    source: str  # paper and tables: "DOT, tables 3 (a) and 6"

    @model_serializer
    def _without_what_is_not_reported(self) -> dict[str, Any]:
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


def as_list(value: Any) -> Any:
    """Sources as a list: one mapping is a list of one, null none."""
    return () if value is None else [value] if isinstance(value, Mapping | Published) else value
