"""Student (model, methods, update, schedule, its own random state) and Trainer (the loop)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from understudy.border import check_pairing
from understudy.config import UserError
from understudy.data import TrainLoader, from_plain_loader
from understudy.meters import Meter
from understudy.methods.base import Method
from understudy.methods.kd import kd_loss
from understudy.random_state import RandomState
from understudy.step import Batch, Losses, Observation, Pairing
from understudy.taps import TappedModel
from understudy.tasks.base import Evaluation, Task
from understudy.teachers.live import Teacher
from understudy.updates.base import Update
from understudy.updates.schedules import Schedule, lr_factor

__all__ = ["Interrupted", "Student", "Trainer", "Watcher", "WeightedMethod"]

YARDSTICK_TEMPERATURE = 4.0  # one for all rows, whatever temperature their own method uses


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Training stopped at somebody's wish, after a whole step that was saved."""

    def __init__(self, step: int, signal: int | None = None) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step
        self.signal = signal


@dataclass(frozen=True, slots=True)
class WeightedMethod:
    """A method, and how its terms enter the distillation loss."""

    method: Method
    weight: float
    warmup_epochs: int = 0

    def weight_in(self, epoch: int) -> float:
        """Weight in an epoch counted from 1, constant within it, as the field does it."""
        return self.weight * (min(epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0)


class Student:
    """One row of one seed: a model on its way, with everything that decides where it goes.

    Args:
        name: the row's name.
        model: the tapped network.
        task: runs it on a batch.
        methods: what is distilled; none trains the model alone.
        task_weight: weight of the task's own loss.
        update: turns losses into new weights; it was built on `parameters_of(model, methods)`.
        schedule: learning rate over the epochs.
        seed: of this student's own random state (dropout, negatives), which is swapped in around its steps.
    """

    def __init__(
        self,
        name: str,
        model: TappedModel,
        *,
        task: Task,
        methods: Sequence[WeightedMethod] = (),
        task_weight: float = 1.0,
        update: Update,
        schedule: Schedule,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.model = model
        self.task = task
        self.methods = tuple(methods)
        self.connectors = nn.ModuleList(weighted.method for weighted in self.methods)
        self.task_weight = task_weight
        self.update = update
        self.schedule = schedule
        self.random_state = RandomState(seed)
        self._is_first_step = True

    def begin_step(self, *, progress: float, epochs: int) -> None:
        """Set the learning rate for `progress` epochs behind us (0-based, fractional) of `epochs`."""
        self.update.set_lr_factor(lr_factor(self.schedule, progress, epochs))

    def step(self, batch: Batch, seen: Observation, *, epoch: int) -> tuple[Losses, Pairing]:
        """A whole training step: forward, losses, new weights."""
        with self.random_state.swapped_in():
            task_loss, pairings = self.task.pair(self.model, seen, batch)
            if self._is_first_step:
                check_pairing(pairings["main"], [weighted.method for weighted in self.methods])
                self._is_first_step = False
            losses = self._weighed(task_loss, pairings["main"], epoch)
            self.update(losses)
        return losses, pairings["main"]

    def predict(self, batch: Batch) -> Any:
        """Output of the deployed model; the caller sets evaluation mode."""
        return self.deployed()(self.model.prepare(batch.images))

    def deployed(self) -> nn.Module:
        """What is evaluated, counted, timed and exported."""
        model = self.model.module
        for weighted in self.methods:
            model = weighted.method.deployed(model)
        return model

    def train(self, mode: bool = True) -> None:
        """Set training or evaluation mode of model and connectors."""
        self.model.train(mode)
        self.connectors.train(mode)

    def state_dict(self) -> dict[str, Any]:
        """Weights, connectors, update and random state."""
        return {
            "model": self.model.module.state_dict(),
            "connectors": self.connectors.state_dict(),
            "update": self.update.state_dict(),
            "random_state": self.random_state.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.model.module.load_state_dict(state["model"])
        self.connectors.load_state_dict(state["connectors"])
        self.update.load_state_dict(state["update"])
        self.random_state.load_state_dict(state["random_state"])

    def _weighed(self, task_loss: Tensor, pairing: Pairing, epoch: int) -> Losses:
        distill: Tensor | None = None
        logged: dict[str, Tensor] = {}
        labels = labels_of([weighted.method for weighted in self.methods])
        for label, weighted in zip(labels, self.methods, strict=True):
            terms = weighted.method(pairing)
            loss = weighted.weight_in(epoch) * torch.stack(list(terms.values())).sum()
            distill = loss if distill is None else distill + loss
            for term, value in terms.items():
                logged[label if term == weighted.method.name else f"{label}.{term}"] = value.detach()
        return Losses(
            task=self.task_weight * task_loss, distill=distill, terms={"task_loss": task_loss.detach(), **logged}
        )


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


def labels_of(methods: Sequence[Method]) -> list[str]:
    """The methods' names, the second of one name as "kd#2"."""
    names = [method.name for method in methods]
    return [
        name if names[:place].count(name) == 0 else f"{name}#{names[:place].count(name) + 1}"
        for place, name in enumerate(names)
    ]


def _doubled(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def parameters_of(model: nn.Module, methods: Iterable[nn.Module]) -> list[tuple[str, nn.Parameter]]:
    """Named parameters that an update moves: the student's and every connector's."""
    named = list(model.named_parameters())
    for number, method in enumerate(methods):
        named += [(f"connectors.{number}.{name}", parameter) for name, parameter in method.named_parameters()]
    return [(name, parameter) for name, parameter in named if parameter.requires_grad]


def common_measures(pairing: Pairing) -> dict[str, Tensor]:
    """What is measured for every row alike, without gradient: the yardstick and top-1 on the training batch.

    The yardstick is KL(teacher || student) at T = 4, summed over classes, mean over rows, in nats (no T^2).
    """
    measures: dict[str, Tensor] = {}
    with torch.no_grad():
        plain = slice(None) if pairing.copies is None else pairing.copies == 0
        said, labels = pairing.student_logits.detach()[plain], pairing.labels[plain]
        seen = None if pairing.teacher_logits is None else pairing.teacher_logits[plain]
        hard = labels if labels.ndim == 1 else labels.argmax(dim=1)
        num_labelled = (hard >= 0).sum().clamp_min(1)
        measures["top1"] = 100.0 * (said.argmax(dim=1) == hard).sum() / num_labelled
        if seen is not None and seen.shape == said.shape:
            loss = kd_loss(said, seen, temperature=YARDSTICK_TEMPERATURE)
            measures["kl_to_teacher"] = loss / YARDSTICK_TEMPERATURE**2
    return measures
