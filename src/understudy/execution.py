"""Execution: one run on its way, and everything that its stages share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from understudy.building import Parts
from understudy.logs import Display
from understudy.recipe import Recipe
from understudy.rows import Row
from understudy.runfolder import RunFolder
from understudy.tasks import Evaluation
from understudy.trackers import Trackers
from understudy.watching import StopRequest

__all__ = ["Execution"]


@dataclass
class Execution:
    """One run on its way."""

    recipe: Recipe
    rows: Sequence[Row]
    parts: Parts
    run: RunFolder
    display: Display
    stop: StopRequest
    trackers: Trackers | None = None  # of the first process, once it has begun
    teacher: dict[str, Evaluation] = field(default_factory=dict)  # by split
