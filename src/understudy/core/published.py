"""What papers report for a recipe: scores and losses of one table, and the table's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_serializer

from understudy.core.config import Config

__all__ = ["Published", "as_list"]

Score = Annotated[float, Field(ge=-1e100, le=1e100)]


class Published(Config):
    """What one table, or several that agree, report for this recipe.

    Every key but those below is a metric of the task, with its score in the metric's unit: {top1: 75.12, source: ...}.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Score]

    task_loss: float | None = None  # nats, at the end, on the training images
    distill_loss: float | None = None  # likewise
    source: str  # paper and tables: "DOT, tables 3 (a) and 6"
    runs: int | None = Field(default=None, ge=1)  # that the scores are a mean of, where the source says so
    caveat: str | None = None  # why they may not stand beside a run of this recipe as they are

    @property
    def scores(self) -> dict[str, float]:
        """By metric, in its unit."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def cited(self) -> str:
        """'CIRKD, table 1; one run; images were BGR': the source, and what to know beside the scores."""
        runs = [] if self.runs is None else ["one run" if self.runs == 1 else f"mean of {self.runs} runs"]
        return "; ".join([self.source, *runs, *([self.caveat] if self.caveat else [])])

    @model_serializer
    def _without_what_is_not_reported(self) -> dict[str, Any]:
        said = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return {**self.scores, **said}


def as_list(value: Any) -> Any:
    """Sources as a list: one mapping is a list of one, null none."""
    return () if value is None else [value] if isinstance(value, Mapping | Published) else value
