"""Probes of the students of a trainer: when they look, and what they are shown at the end of an epoch."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from understudy.core.batch import IMAGES, MAIN, Batch, Observation
from understudy.core.heads import MEAN
from understudy.core.meters import StepRecord
from understudy.core.precision import autocast, upcast_all
from understudy.data import TrainLoader
from understudy.data.loaders.plain import PlainLoader
from understudy.distributed.world import World
from understudy.probes import EpochSight
from understudy.training.loss import PassShare, WeightedMethod, combine_losses
from understudy.training.metrics import record_of
from understudy.training.student_probes import StudentProbes
from understudy.utils.hashing import hashed
from understudy.utils.seeding import RandomState

if TYPE_CHECKING:
    from understudy.training.student import Student
    from understudy.training.trainer import Trainer

__all__ = ["Probing"]

SHARE_OF_STEPS = 1 / 50  # of an epoch, whose images are looked at again at its end: forward passes alone, about 1 %


class Probing:
    """The probes of all students of a trainer.

    Args:
        students: each has probes of its own.
        names: of the probes; none: nothing is looked at.
        every: steps from one look to the next.
        say: is told of probes that fail.
    """

    def __init__(
        self,
        students: Sequence[Student],
        names: Sequence[str] = (),
        *,
        every: int = 100,
        say: Callable[[str], None] = warnings.warn,
    ) -> None:
        self._every = every
        self._told: dict[tuple[str, str], int] = {}  # looks whose lines were taken, by student and probe
        self.of = {student.name: StudentProbes(student, names, say=say) for student in students} if names else {}

    def begin_step(self, students: Sequence[Student], *, epoch: int, step: int) -> bool:
        """Have the students look in this step if it is one of those that are seen; whether it is."""
        is_seen = step % self._every == 0
        for student in students:
            probes = self.of.get(student.name)
            student.probes = probes if is_seen and probes is not None and probes.probes else None
            if student.probes is not None:
                student.probes.begin(epoch, step)
        return any(student.probes is not None for student in students)

    def end_epoch(self, trainer: Trainer, loader: TrainLoader) -> None:
        """Look at every student at the end of an epoch."""
        looked_at = [student for student in trainer.students if student.name in self.of]
        once = cache(partial(_measured, looked_at, trainer, loader))
        for student in looked_at:
            student.probes = None
            measured = partial(_of_student, once, student.name)
            self.of[student.name].look_at_epoch(EpochSight(trainer.epoch, trainer.step, measured))

    def new_lines(self) -> list[dict[str, Any]]:
        """What has been seen since the last call, a line for each look, with the numbers of it that are finite."""
        lines = []
        for row, probes in self.of.items():
            for name, series in probes.series.items():
                for place in range(self._told.get((row, name), 0), len(series.places)):
                    epoch, step = series.places[place]
                    numbers = {key: seen[place].item() for key, seen in series.values.items() if seen[place].ndim == 0}
                    finite = {key: value for key, value in numbers.items() if math.isfinite(value)}
                    lines.append({"row": row, "epoch": epoch, "step": step, "probe": name, "values": finite})
                self._told[row, name] = len(series.places)
        return lines

    def tensors(self) -> dict[str, dict[str, dict[str, Tensor]]]:
        """By probe and student, all that was seen; see `Series.tensors`."""
        found: dict[str, dict[str, dict[str, Tensor]]] = {}
        for row, probes in self.of.items():
            for name, series in probes.series.items():
                found.setdefault(name, {})[row] = series.tensors()
        return found

    def problems(self) -> dict[str, dict[str, str]]:
        """By probe and student, why nothing was to be seen."""
        found: dict[str, dict[str, str]] = {}
        for row, probes in self.of.items():
            for name, why in probes.problems.items():
                found.setdefault(name, {})[row] = why
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {row: probes.state_dict() for row, probes in self.of.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        for row, probes in self.of.items():
            probes.load_state_dict(state.get(row, {}))
            self._told |= {(row, name): len(series.places) for name, series in probes.series.items()}


def _of_student(measured: Callable[[], Mapping[str, dict[str, float]]], name: str) -> dict[str, float] | None:
    return measured().get(name)


def _measured(students: Sequence[Student], trainer: Trainer, loader: TrainLoader) -> dict[str, dict[str, float]]:
    """Losses of students on the first steps of epoch 1, by name, without a trace in them: their methods are copies."""
    if isinstance(loader, PlainLoader):  # somebody's own, whose random numbers are not to be drawn
        return {}
    num_steps = max(1, round(loader.steps_per_epoch * SHARE_OF_STEPS))
    methods = {student.name: copy.deepcopy(student.methods) for student in students}
    for student in students:
        student.model.train(False)
        for weighted in methods[student.name]:
            weighted.method.train(False)
    random_states = {student.name: RandomState(hashed(0, "probed losses")) for student in students}
    records: dict[str, list[StepRecord]] = {student.name: [] for student in students}
    batches = loader.epoch(1)
    with closing(cast(Generator[Batch], batches)), torch.no_grad():  # workers end with the generator
        for batch in islice(batches, num_steps):
            here: Batch = batch.to(trainer.device)
            seen = trainer.observations(here)
            for student in students:
                found = _record(
                    student, methods[student.name], here, seen[student.precision],
                    epoch=trainer.epoch, random_state=random_states[student.name],
                )  # fmt: skip
                records[student.name].append(found)
    return {name: _means(found, trainer.world) for name, found in records.items()}


def _means(records: Sequence[StepRecord], world: World) -> dict[str, float]:
    total = sum(records[1:], records[0])
    sums, weights = world.add_up([torch.stack(list(part.values())) for part in (total.sums, total.weights)])
    return dict(zip(total.sums, (sums / weights).tolist(), strict=True))


def _record(
    student: Student,
    methods: Sequence[WeightedMethod],
    batch: Batch,
    seen: Observation,
    *,
    epoch: int,
    random_state: RandomState,
) -> StepRecord:
    """The losses of a batch.

    A network in evaluation mode may have one output where it is trained with several: what a method reads of the others
    is not measured, and with it the whole distill loss.
    """
    with autocast(student.precision, student.device):
        task_loss, found = student.task.pair(student.model, seen, batch)
    pairings = upcast_all(found)
    is_whole = all(weighted.reads in (*pairings, IMAGES) for weighted in methods)
    _, whole = combine_losses(
        task_loss,
        pairings,
        methods if is_whole else (),
        task_weight=student.task_weight,
        epoch=epoch,
        part=PassShare(student.world.rows(len(batch.images)), world=student.world),
        random_state=random_state,
    )
    deployed = pairings.get(MEAN, pairings[MAIN])
    return record_of(whole, deployed, student.task.batch_measures(deployed))
