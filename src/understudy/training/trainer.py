"""Trainer: the loop over epochs and batches, for one student or for several that share every pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from understudy.core.batch import Batch, Observation, PlannedBatch
from understudy.core.compile import Capture, begin_compiled_step
from understudy.core.meters import StepRecord
from understudy.core.precision import Precision, autocast
from understudy.data import TrainLoader, from_plain_loader
from understudy.data.loaders.base import planned_batches
from understudy.data.loaders.plain import PlainLoader, as_evaluated_batch, refuse_used_up
from understudy.distributed.world import SINGLE, World
from understudy.tasks.base import Evaluation, headline_metric
from understudy.teachers import Teacher
from understudy.training.capture import captured
from understudy.training.metrics import Measures, NotFinite
from understudy.training.probing import Probing
from understudy.training.student import Student
from understudy.training.watcher import Watcher
from understudy.utils.errors import UserError
from understudy.utils.seeding import alone

__all__ = ["Trainer", "Watcher"]


class Trainer:
    """Repeats the step for one student or for several that share every batch and every teacher pass.

    Args:
        students: the rows of one seed.
        teacher: looks at every batch once; None where nobody needs one.
        device: where the models are.
        log_every: steps of an interval; only at its end are losses read from the device.
        stops_at_nan: whether a loss that is NaN or infinite ends the training.
        selects_best: whether every student keeps the weights of its best evaluated epoch.
        world: the processes that train together; each has its part of every batch.
        capture: whether steps are replayed as one CUDA graph (see `understudy.training.capture`).
        say: is told why they are not, where they could have been.
        probes, probe_every: names of those that look at each student, and steps from one look to the next.
    """

    def __init__(
        self,
        students: Sequence[Student],
        *,
        teacher: Teacher | None,
        device: torch.device,
        log_every: int = 50,
        stops_at_nan: bool = True,
        selects_best: bool = False,
        world: World = SINGLE,
        capture: Capture = "auto",
        say: Callable[[str], None] = warnings.warn,
        probes: Sequence[str] = (),
        probe_every: int = 100,
    ) -> None:
        if not students:
            raise UserError("there is no student to train")
        names = [student.name for student in students]
        if doubled := [name for place, name in enumerate(names) if name in names[:place]]:
            raise UserError(f"two students are called {doubled[0]!r}; give StudentSpec(name=...)")
        self.students = list(students)
        self.teacher = teacher
        self.device = device
        self.log_every = log_every
        self.selects_best = selects_best
        self.world = world
        self.epoch = 1  # the one that is running, counted from 1
        self.epochs = 0
        self.lengths: list[int] = []  # epochs that it was to have done in all, one after the other
        self.step_in_epoch = 0  # steps of it that are done
        self.steps_per_epoch = 0
        self.left_out: set[int] = set()  # steps that are not taken, since they led to what is NaN or infinite
        self.history: dict[str, list[dict[str, Any]]] = {student.name: [] for student in students}
        self.evaluations: dict[str, Evaluation] = {}  # of the last epoch of `fit` that was evaluated
        self.raw_evaluations: dict[str, Evaluation] = {}  # the same without averaging, where weights are averaged
        self._compile_modes = {student.compile for student in students}
        if teacher is not None:
            self._compile_modes.add(teacher.compile)
        batch_metrics = students[0].task.batch_metrics
        self.measures = Measures(names, batch_metrics=batch_metrics, stops_at_nan=stops_at_nan, world=world)
        self.probing = Probing(students, probes, every=probe_every, say=say)
        self._captured = captured(self, capture, say=say)

    @property
    def step(self) -> int:
        """Steps done since the first epoch began."""
        return (self.epoch - 1) * self.steps_per_epoch + self.step_in_epoch

    @property
    def is_at_interval_end(self) -> bool:
        """Whether the step that was done last closed an interval."""
        is_last = self.step_in_epoch == self.steps_per_epoch
        return self.step == 1 or is_last or self.step % self.log_every == 0

    def fit(
        self,
        loader: TrainLoader | Iterable[Batch | tuple[Tensor, Tensor]],
        *,
        epochs: int,
        val: Iterable[Batch | tuple[Tensor, Tensor]] | None = None,
        watcher: Watcher | None = None,
    ) -> dict[str, list[dict[str, Any]]]:
        """Train until `epochs` epochs are done, from wherever this trainer stands; by student, a record of each epoch.

        Args:
            loader: understudy's own, or any re-iterable of known length of (images, labels), or of Batch with the
                samples' indices where a method needs them; the augmentation of the latter cannot be resumed exactly.
            epochs: to have done in all, counted from the first one.
            val: evaluated after each epoch.
            watcher: told after every step and every epoch.

        Raises:
            NotFinite: a loss was NaN or infinite, and `stops_at_nan`.
            UserError: a loader that is empty, used up, or not as long as it says, batches too small for a student or
                its methods, labels that are no classes, a warm-up as long as the training.
        """
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
            raise UserError(f"epochs must be a whole number above 0, got {epochs!r}")
        batches = self._as_own(loader)
        if val is not None:
            refuse_used_up(val, "val")
        for student in self.students:
            student.schedule.check_run(epochs)
        self.begin(epochs=epochs, steps_per_epoch=batches.steps_per_epoch)
        if self.lengths[-1:] != [epochs]:
            self.lengths.append(epochs)
        with alone("a training"):
            self._fit(batches, val, watcher)
        return self.history

    def begin(self, *, epochs: int, steps_per_epoch: int) -> None:
        """Say how long the training is, on which learning rates and curricula depend: for steps taken one by one.

        Args:
            epochs, steps_per_epoch: to have done in all, and of each.
        """
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        for student in self.students:
            student.set_epoch(self.epoch, epochs)

    def _as_own(self, loader: TrainLoader | Iterable[Any]) -> TrainLoader:
        """The loader, once it is known that every student can be trained on the smallest of its batches."""
        if hasattr(loader, "steps_per_epoch"):
            return cast(TrainLoader, loader)
        plain = from_plain_loader(loader)
        smallest = plain.smallest_batch
        if smallest is not None:
            for student in self.students:
                student.check_batches_of(smallest)
        return plain

    def _fit(
        self, batches: TrainLoader, val: Iterable[Batch | tuple[Tensor, Tensor]] | None, watcher: Watcher | None
    ) -> None:
        while self.epoch <= self.epochs:
            self._run_epoch(batches, watcher)
            self._finish_epoch(val)
            self.probing.end_epoch(self, batches)
            self.epoch, self.step_in_epoch = self.epoch + 1, 0
            if watcher is not None:
                watcher.finished_epoch(self)
        if val is not None and not self.evaluations:  # resumed after the last epoch
            self._evaluate_epoch(val)

    def _run_epoch(self, loader: TrainLoader, watcher: Watcher | None) -> None:
        for student in self.students:
            student.train()
            student.set_epoch(self.epoch, self.epochs)
        is_plain = isinstance(loader, PlainLoader)
        for batch in planned_batches(loader, self.epoch, self.step_in_epoch):
            if is_plain:
                self._check_targets(batch.made())
            if self.step + 1 not in self.left_out:
                self.take_step(batch.to(self.device))
            self.step_in_epoch += 1
            if self.is_at_interval_end:
                self.measures.close_interval()
            if watcher is not None:
                watcher.stepped(self, is_last=self.step_in_epoch == self.steps_per_epoch)

    def _check_targets(self, batch: Batch) -> None:
        """Refuse what the task cannot learn, wherever looking at it waits for no device."""
        if not isinstance(batch.targets, Tensor) or batch.targets.device.type == "cpu":
            self.students[0].task.check_targets(batch.targets)

    def take_step(self, batch: Batch | PlannedBatch) -> None:
        """One step of every student on one batch, after one look of the teacher at it."""
        begin_compiled_step(self._compile_modes)
        progress = self.epoch - 1 + self.step_in_epoch / self.steps_per_epoch
        for student in self.students:
            student.begin_step(progress=progress, epochs=self.epochs)
        is_seen = self.probing.begin_step(self.students, epoch=self.epoch, step=self.step + 1)
        take = self.replayable_step if is_seen else self._captured  # a replayed step shows nothing
        for student, record in zip(self.students, take(batch), strict=True):
            student.finish_step()
            self.measures.add(student.name, record)
        self.measures.end_step(self.step + 1)

    def replayable_step(self, planned: Batch | PlannedBatch) -> list[StepRecord]:
        """The batch, the look, every student's passes and new weights: all that a captured graph of a step does."""
        batch = planned.made()
        rows, seen = self.world.rows(len(batch.images)), self.observations(batch)
        return [s.replayable_step(batch, seen[s.precision], self.epoch, rows) for s in self.students]

    def observations(self, batch: Batch) -> dict[Precision, Observation]:
        """A look for each precision: what a student is taught must not depend on who else is there."""
        found = {student.precision: Observation() for student in self.students}
        if self.teacher is not None:
            for precision in found:
                with autocast(precision, self.device):
                    found[precision] = self.teacher.observe(batch)
        return found

    def check_finite(self) -> None:
        """Raise where a loss of the running interval, or a weight, is NaN or infinite. All processes call it.

        Raises:
            NotFinite: naming student, step and term.
        """
        if not self.measures.stops_at_nan:
            return
        self.measures.check()
        for student in self.students:
            if not student.is_finite():
                raise NotFinite(student.name, self.step, "a weight is NaN or infinite")

    def _finish_epoch(self, val: Iterable[Batch | tuple[Tensor, Tensor]] | None) -> None:
        if val is not None:
            self._evaluate_epoch(val)
        metric = headline_metric(self.students[0].task)
        for student in self.students:
            record: dict[str, Any] = {"epoch": self.epoch, "train": self.measures.read_epoch(student.name)}
            if student.name in self.evaluations:
                record["val"] = dict(self.evaluations[student.name].scores)
            if student.name in self.raw_evaluations:
                record["val_raw"] = dict(self.raw_evaluations[student.name].scores)
            self.history[student.name].append(record)
            if self.selects_best and student.name in self.evaluations:
                score = self.evaluations[student.name].scores[metric.name]
                student.keep_if_best(self.epoch, metric.worth(score))

    def _evaluate_epoch(self, val: Iterable[Batch | tuple[Tensor, Tensor]]) -> None:
        scores = self._scores(val)
        self.evaluations = {name: score for (name, kind), score in scores.items() if kind == "deployed"}
        self.raw_evaluations = {name: score for (name, kind), score in scores.items() if kind == "raw"}

    def evaluate(self, batches: Iterable[Batch | tuple[Tensor, Tensor]]) -> dict[str, Evaluation]:
        """Scores of all students by name, of what is deployed, on Batches or (images, labels).

        Mixed or one-hot labels (B,C) count by their largest share.

        Raises:
            UserError: no images, labels that are no classes, or several labels of one image.
        """
        return {name: score for (name, kind), score in self._scores(batches).items() if kind == "deployed"}

    def _scores(self, batches: Iterable[Batch | tuple[Tensor, Tensor]]) -> Mapping[tuple[str, str], Evaluation]:
        """Scores by student and kind of weights, "deployed" or "raw"."""
        for student in self.students:
            student.train(False)
        found = {(student.name, kind): predict for student in self.students for kind, predict in student.predictors()}
        own = (self._checked(item) for item in batches)
        return self.students[0].task.evaluate(found, own, self.device, self.world)

    def _checked(self, item: object) -> Batch:
        batch = as_evaluated_batch(item)
        self._check_targets(batch)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs; tensors, numbers, strings, lists and dicts only. For every process."""
        return {
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "left_out": sorted(self.left_out),
            "lengths": list(self.lengths),
            "history": self.history,
            "students": {student.name: student.state_dict() for student in self.students},
            "measures": self.measures.state_dict(),
            "probes": self.probing.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.epoch, self.step_in_epoch = state["epoch"], state["step_in_epoch"]
        self.left_out |= set(state["left_out"])
        self.lengths, self.history = list(state["lengths"]), state["history"]
        self.measures.load_state_dict(state["measures"])
        for student in self.students:
            student.load_state_dict(state["students"][student.name])
        self.probing.load_state_dict(state.get("probes", {}))
        self._captured.forget()
