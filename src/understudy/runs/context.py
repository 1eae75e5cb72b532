"""Execution: one run on its way, and everything that its stages share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from understudy.recipes.comparison import Variant
from understudy.recipes.schema import Recipe
from understudy.runs.components import Components
from understudy.runs.console import Display
from understudy.runs.folder import RunFolder
from understudy.runs.stop import StopRequest
from understudy.tasks import Evaluation
from understudy.trackers.base import Trackers

__all__ = ["Execution"]


@dataclass
class Execution:
    """One run on its way."""

    recipe: Recipe
    rows: Sequence[Variant]
    components: Components
    run: RunFolder
    display: Display
    stop: StopRequest
    trackers: Trackers | None = None  # of the first process, once it has begun
    teacher: dict[str, Evaluation] = field(default_factory=dict)  # by split
    further_teachers: Mapping[str, Mapping[str, Evaluation]] = field(default_factory=dict)  # by head, by split
