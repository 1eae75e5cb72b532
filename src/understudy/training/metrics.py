"""What is measured of every student alike, and what its steps were worth per interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from understudy.core.batch import Losses, Pairing
from understudy.core.meters import BadValue, Means, StepLog, StepRecord
from understudy.distributed.world import SINGLE, World
from understudy.methods.kd import kd_loss
from understudy.tasks.base import BatchMeasures

__all__ = ["Measures", "NotFinite", "record_of", "yardstick"]

TEMPERATURE = 4.0  # one for all rows, whatever temperature their own method uses
OF_TASK = ("task", "task_loss")  # means over the labelled predictions, as what the task measures is, or its own count


def yardstick(pairing: Pairing) -> dict[str, Tensor]:
    """How far a student is from its teacher, measured for every row alike and without gradient, where that can be.

    KL(teacher || student) at T = 4 on the rows that are no copies: summed over classes, mean over rows, in nats
    (no T^2).
    """
    if pairing.teacher_logits is None or pairing.activation != "softmax":
        return {}
    with torch.no_grad():
        plain = pairing.plain
        student_logits, teacher_logits = pairing.student_logits.detach()[plain], pairing.teacher_logits[plain]
        if teacher_logits.shape != student_logits.shape:
            return {}
        loss = kd_loss(student_logits, teacher_logits, temperature=TEMPERATURE)
        return {"kl_to_teacher": loss / TEMPERATURE**2}


def record_of(
    losses: Losses, pairing: Pairing, measured: BatchMeasures, *, of_task: Tensor | None = None
) -> StepRecord:
    """What one pass is worth in the log: its losses and terms, and what is measured of every student alike.

    Args:
        losses: whole ones, which no share of the step has made smaller.
        pairing: that they were made of.
        measured: what the task measures of it.
        of_task: () what the task loss is a mean of; None: the predictions that are measured.
    """
    weighted = {"task": losses.task}
    if losses.distill is not None:
        weighted["distill"] = losses.distill
    # The terms come first, so that they are named first where one is NaN or infinite.
    return StepRecord.of_means(
        {**losses.terms, **weighted, **measured.means, **yardstick(pairing)},
        num_rows=len(pairing.student_logits),
        num_labelled=measured.num_labelled,
        of_labelled=(*OF_TASK, *measured.means),
        others=None if of_task is None else dict.fromkeys(OF_TASK, of_task),
    )


class NotFinite(ArithmeticError):  # noqa: N818 - it is what was met
    """A loss or a weight that is NaN or infinite: of which student, in which step, and what."""

    def __init__(self, student: str, step: int, what: str) -> None:
        super().__init__(f"{student}: {what} in step {step}")
        self.student, self.step, self.what = student, step, what


class Measures:
    """Losses, terms and yardsticks of several students, over intervals of steps and over epochs.

    Args:
        names: of the students.
        batch_metrics: what their task measures of a training batch, beside what is measured for all.
        stops_at_nan: whether a value that is NaN or infinite raises.
        world: the processes whose rows are measured together.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        batch_metrics: Sequence[str] = (),
        stops_at_nan: bool = True,
        world: World = SINGLE,
    ) -> None:
        self.stops_at_nan = stops_at_nan
        self.world = world
        self.interval: dict[str, dict[str, float]] = {}  # means by student over the interval that was closed last
        self.interval_steps = 0
        self._logs = {name: StepLog() for name in names}
        self._epochs = {name: Means() for name in names}
        self._of_epochs = ("task_loss", "distill", *batch_metrics, "kl_to_teacher")
        self._steps: list[int] = []  # of the interval that is running

    def add(self, name: str, record: StepRecord) -> None:
        """Note a step of a student; nothing is read from the device."""
        self._logs[name].add(record)

    def end_step(self, step: int) -> None:
        """All students have taken this step."""
        self._steps.append(step)

    def close_interval(self) -> None:
        """Read what was noted, and start the next interval; every process must call this at the same steps.

        Raises:
            NotFinite: something was NaN or infinite.
        """
        self.interval = {}
        for name, log in self._logs.items():
            sums, weights = self._totals(name, log)
            if sums:
                self.interval[name] = {key: value / weights[key] for key, value in sums.items() if weights[key]}
                self._epochs[name].add({key: sums[key] for key in self._of_epochs if key in sums}, weights)
            log.reset()
        self.interval_steps, self._steps = len(self._steps), []

    def check(self) -> None:
        """Raise where something of the running interval is NaN or infinite; the interval goes on. For every process.

        Raises:
            NotFinite: something was.
        """
        for name, log in self._logs.items():
            self._totals(name, log)

    def read_epoch(self, name: str) -> dict[str, float]:
        """Means since the last call, of intervals that are closed."""
        return self._epochs[name].read()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, of all processes."""
        return {
            "steps": list(self._steps),
            "logs": {name: log.state_dict(self.world.add_up) for name, log in self._logs.items()},
            "epochs": {name: meter.state_dict() for name, meter in self._epochs.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._steps = list(state["steps"])
        for name, log in self._logs.items():
            log.load_state_dict(state["logs"][name], is_first=self.world.is_first)
            self._epochs[name].load_state_dict(state["epochs"][name])

    def _totals(self, name: str, log: StepLog) -> tuple[dict[str, float], dict[str, float]]:
        try:
            return log.totals(self.world.add_up, refuses_nan=self.stops_at_nan)
        except BadValue as bad:
            raise NotFinite(name, self._steps[bad.place], str(bad)) from None
