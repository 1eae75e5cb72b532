"""What every probe is: a look at one student, every so many steps or at the end of every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.methods.base import Method
from understudy.optim.base import Update
from understudy.utils.errors import UserError, unknown_name
from understudy.utils.installed import register

__all__ = ["PROBES", "EpochSight", "Probe", "Probed", "Sight", "probe_names"]

Value = Tensor | float
PROBES: dict[str, type[Probe]] = {}


@dataclass(frozen=True, slots=True)
class Probed:
    """The student that a probe looks at; it is trained on, so nothing of it may be changed."""

    name: str
    network: nn.Module
    methods: Sequence[Method]  # with their connectors
    parameters: Sequence[tuple[str, nn.Parameter]]  # that the update moves, connectors too
    update: Update


@dataclass(frozen=True, slots=True)
class Sight:
    """What a probe sees of one step.

    Attributes:
        epoch: counted from 1.
        step: since the first epoch began, counted from 1.
        pairing: of the step's last pass on this process, detached.
        gradients: by loss, "task" and "distill" where there is one: one tensor for each of `Probed.parameters`, zeros
            where the loss does not reach it, over all passes and processes; empty unless `needs_gradients`.
        reached: by loss, whether it reaches each of them.
    """

    epoch: int
    step: int
    pairing: Pairing
    gradients: Mapping[str, Sequence[Tensor]]
    reached: Mapping[str, Sequence[bool]]


@dataclass(frozen=True, slots=True)
class EpochSight:
    """What a probe sees at the end of an epoch.

    Attributes:
        epoch: counted from 1.
        step: that was the epoch's last.
        measured: means by name over a fixed part of the training images, in evaluation mode: "task_loss", "distill"
            and its terms where something is distilled, "kl_to_teacher" where there is a teacher; a pass over these
            images on the first call, None where they cannot be shown again.
    """

    epoch: int
    step: int
    measured: Callable[[], Mapping[str, float] | None]


class Probe:
    """Base of every probe: one is made for each student. It reads, and changes nothing.

    A subclass is registered by `class Mine(Probe, name="mine")`, and takes part where a recipe's `probes` name it. What
    its looks return is kept in probes/NAME.safetensors, and the numbers among it in metrics.jsonl. One from another
    package that fails is left out from there on, with a warning; no training stops for it.

    Args:
        student: that it looks at.
    """

    name: ClassVar[str]
    needs_gradients: ClassVar[bool] = False  # of each loss for itself: two more backward passes in the steps it sees

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            register(PROBES, name, cls, kind="a probe")
            cls.name = name

    def __init__(self, student: Probed) -> None:
        self.student = student

    def problem(self) -> str | None:
        """Why there is nothing to see of this student, with the setting that would change it; None: there is."""
        return None

    def begin(self) -> None:
        """Before the forward pass of a step that is going to be seen."""

    def before_step(self, sight: Sight) -> None:
        """The losses are there, the weights still those that they were computed with."""

    def look(self, sight: Sight) -> Mapping[str, Value]:
        """After the update has moved the weights: numbers and tensors by name, the same names and shapes every time."""
        return {}

    def look_at_epoch(self, sight: EpochSight) -> Mapping[str, Value]:
        """At the end of an epoch, likewise; of a step that `look` saw, too, only one of the two returns something."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside what was returned: tensors, numbers, strings, lists and dicts only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""


def probe_names(names: Iterable[str]) -> tuple[str, ...]:
    """The probes of a run, each once.

    Raises:
        UserError: no such probe; the text names the nearest one, or lists them.
    """
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        if name not in PROBES:
            raise UserError(f"{name!r} is {unknown_name(name, PROBES)}")
    return wanted
