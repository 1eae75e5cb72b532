"""Trainer: the loop over epochs and batches, for one student or for several that share every pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from understudy.config import UserError
from understudy.data import TrainLoader, from_plain_loader
from understudy.meters import Meter
from understudy.step import Batch, Losses, Observation, Pairing
from understudy.student import Student
from understudy.tasks.base import Evaluation
from understudy.teachers.live import Teacher
from understudy.yardstick import common_measures

__all__ = ["Interrupted", "Trainer", "Watcher"]


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Training stopped at somebody's wish, after a whole step that was saved."""

    def __init__(self, step: int, signal: int | None = None) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step
        self.signal = signal


class Watcher(Protocol):
    """Whoever must know what happens: writes logs and checkpoints, shows progress. It changes nothing."""

    def stepped(self, trainer: Trainer, *, is_last: bool) -> None:
        """A step of all students is done; raises Interrupted to stop here."""

    def finished_epoch(self, trainer: Trainer) -> None:
        """An epoch, its evaluation included, is done."""


class Trainer:
    """Repeats the step for one student or for several that share every batch and every teacher pass.

    Args:
        students: the rows of one seed.
        teacher: looks at every batch once; None where nobody needs one.
        device: where the models are.
    """

    def __init__(self, students: Sequence[Student], *, teacher: Teacher | None, device: torch.device) -> None:
        if not students:
            raise UserError("there is no student to train")
        names = [student.name for student in students]
        if len(set(names)) < len(names):
            raise UserError(f"two students are called {_doubled(names)!r}; give StudentSpec(name=...)")
        self.students = list(students)
        self.teacher = teacher
        self.device = device
        self.epoch = 1  # the one that is running, counted from 1
        self.epochs = 0
        self.step_in_epoch = 0  # steps of it that are done
        self.steps_per_epoch = 0
        self.history: dict[str, list[dict[str, Any]]] = {student.name: [] for student in students}
        self.evaluations: dict[str, Evaluation] = {}  # of the last epoch that was evaluated
        self.epoch_meters = {student.name: Meter() for student in students}
        self.interval_meters = {student.name: Meter() for student in students}

    @property
    def step(self) -> int:
        """Steps done since the first epoch began."""
        return (self.epoch - 1) * self.steps_per_epoch + self.step_in_epoch

    def fit(
        self,
        loader: TrainLoader | Iterable[tuple[Tensor, Tensor]],
        *,
        epochs: int,
        val: Iterable[Batch | tuple[Tensor, Tensor]] | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        """Train until `epochs` epochs are done, from wherever this trainer stands.

        Args:
            loader: understudy's own, or any re-iterable of (images, labels); the latter gives no sample indices,
                so that methods that need them refuse it, and its augmentation cannot be resumed exactly.
            epochs: to have done in all, counted from the first one.
            val: evaluated after each epoch.
            watcher: told after every step and every epoch.
        """
        is_own = hasattr(loader, "steps_per_epoch")
        batches = cast(TrainLoader, loader) if is_own else from_plain_loader(cast(Iterable[Any], loader))
        self.epochs, self.steps_per_epoch = epochs, batches.steps_per_epoch
        while self.epoch <= epochs:
            self._run_epoch(batches, watcher)
            self._finish_epoch(val)
            self.epoch, self.step_in_epoch = self.epoch + 1, 0
            if watcher is not None:
                watcher.finished_epoch(self)
        if val is not None and not self.evaluations:  # resumed after the last epoch
            self.evaluations = self.evaluate(val)

    def _run_epoch(self, loader: TrainLoader, watcher: Watcher | None) -> None:
        for student in self.students:
            student.train()
        for batch in loader.epoch(self.epoch, self.step_in_epoch):
            self.take_step(batch.to(self.device))
            self.step_in_epoch += 1
            if watcher is not None:
                watcher.stepped(self, is_last=self.step_in_epoch == self.steps_per_epoch)

    def take_step(self, batch: Batch) -> None:
        """One step of every student on one batch, after one look of the teacher at it."""
        seen = Observation() if self.teacher is None else self.teacher.observe(batch)
        progress = self.epoch - 1 + self.step_in_epoch / self.steps_per_epoch
        for student in self.students:
            student.begin_step(progress=progress, epochs=self.epochs)
            losses, pairing = student.step(batch, seen, epoch=self.epoch)
            self._record(student, losses, pairing)

    def _record(self, student: Student, losses: Losses, pairing: Pairing) -> None:
        rows = len(pairing.student_logits)
        common = common_measures(pairing)
        weighted = {"task": losses.task.detach()}
        if losses.distill is not None:
            weighted["distill"] = losses.distill.detach()
        self.interval_meters[student.name].add({**weighted, **losses.terms, **common}, rows)
        self.epoch_meters[student.name].add({"task_loss": losses.terms["task_loss"], **common}, rows)

    def _finish_epoch(self, val: Iterable[Batch | tuple[Tensor, Tensor]] | None) -> None:
        if val is not None:
            self.evaluations = self.evaluate(val)
        for student in self.students:
            record: dict[str, Any] = {"epoch": self.epoch, "train": self.epoch_meters[student.name].read()}
            if student.name in self.evaluations:
                record["val"] = self.evaluations[student.name].scores()
            self.history[student.name].append(record)

    def evaluate(self, batches: Iterable[Batch | tuple[Tensor, Tensor]]) -> dict[str, Evaluation]:
        """Scores of all students by name, on Batches or (images, labels)."""
        for student in self.students:
            student.train(False)
        predictors = {student.name: student.predict for student in self.students}
        own = (batch if isinstance(batch, Batch) else Batch(images=batch[0], targets=batch[1]) for batch in batches)
        return self.students[0].task.evaluate(predictors, own, self.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs; tensors, numbers, strings, lists and dicts only."""
        return {
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "history": self.history,
            "students": {student.name: student.state_dict() for student in self.students},
            "epoch_meters": {name: meter.state_dict() for name, meter in self.epoch_meters.items()},
            "interval_meters": {name: meter.state_dict() for name, meter in self.interval_meters.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.epoch, self.step_in_epoch = state["epoch"], state["step_in_epoch"]
        self.history = state["history"]
        for student in self.students:
            student.load_state_dict(state["students"][student.name])
            self.epoch_meters[student.name].load_state_dict(state["epoch_meters"][student.name])
            self.interval_meters[student.name].load_state_dict(state["interval_meters"][student.name])


def _doubled(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)
