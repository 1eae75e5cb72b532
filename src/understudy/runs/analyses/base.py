"""What every analysis of a run is: pieces of work that are kept one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from understudy.runs.analyses.opened import Opened

__all__ = ["ANALYSES", "Analysis", "Found", "Piece", "register_analysis"]


@dataclass(frozen=True)
class Found:
    """What a piece of work has found out: plain values for the .json, tensors for the .safetensors beside it."""

    values: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A part of an analysis that is done at one go.

    Attributes:
        key: its name within the analysis, such as "kd" or "kd/plane.3".
        passes: forward passes of all images of the analysis that it is worth, for how long it takes.
        of: whose passes: a row, or "teacher".
        find: does it.
    """

    key: str
    passes: float
    of: str
    find: Callable[[], Found]


@dataclass(frozen=True)
class Analysis:
    """What `understudy analyze --what NAME` does.

    Attributes:
        name: a word; analysis/NAME.json is where it goes.
        title: in words.
        place: among the others, the quick ones first.
        images: "train" or "val": which images it looks at.
        problem: why it cannot be made of this run, with what would change that; None: it can.
        settings: what its results depend on beside the networks and the images.
        pieces: of the work, in order.
        tasks: of whose runs it can be made.
    """

    name: str
    title: str
    place: int
    images: str
    problem: Callable[[Opened], str | None]
    settings: Callable[[Opened], Mapping[str, Any]]
    pieces: Callable[[Opened], Iterable[Piece]]
    tasks: frozenset[str] = frozenset({"classification"})


ANALYSES: dict[str, Analysis] = {}


def register_analysis(analysis: Analysis) -> Analysis:
    """Let `understudy analyze` know an analysis."""
    ANALYSES[analysis.name] = analysis
    return analysis
