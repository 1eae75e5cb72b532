"""The whole step of a Trainer as one CUDA graph: recorded once, replayed with one launch.

At the sizes of CIFAR a step waits for its hundreds of kernels to be launched. What a graph replays are these kernels on
the tensors that they were recorded with; Python does not go through the step again. So batches, or the numbers that
they are made of on the device, are copied into tensors that stay where they are, the numbers that change from step to
step live on the device (`Update.begin_step`), and whatever else of Python is in a step (`baked_in`: warm-up weights, a
curriculum's epoch, a bank's view, who is trainable) has the step recorded anew where it changes. What a step draws on
the device (dropout, drop path, negatives) comes from generators that the graph is told of, and that checkpoints hold.
Steps of other shapes, such as an epoch's last, are taken as they come.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

from understudy.core.batch import Batch, PlannedBatch
from understudy.core.compile import Capture
from understudy.core.meters import StepRecord
from understudy.core.precision import renewed_scaler
from understudy.training.capture_check import checked_replay
from understudy.training.cuda_graph import Recorder, cuda_graph, in_words
from understudy.utils.errors import UserError
from understudy.utils.seeding import RandomState, random_state

if TYPE_CHECKING:
    from understudy.training.trainer import Trainer

__all__ = ["CapturedSteps", "capture_problem", "captured"]

AnyBatch = Batch | PlannedBatch

STEPS_BEFORE = 3  # taken as they come: libraries settle on their kernels, DOT learns which loss reaches what
REPLAYS_BETWEEN_CHECKS = 500  # at least: what drifts apart by and by is seen in a later epoch, at 0.3 % of the time


class Steps(Protocol):
    """How a trainer takes what is replayable of its steps."""

    def __call__(self, batch: AnyBatch) -> list[StepRecord]:
        """Take a step on a batch."""

    def forget(self) -> None:
        """Tensors have been replaced: nothing that was recorded is valid any more."""


def captured(trainer: Trainer, capture: Capture, *, say: Callable[[str], None]) -> Steps:
    """The way in which a trainer takes its steps: replayed where they can be, else as they come.

    Args:
        trainer: that is being made; its students and its teacher are there.
        capture: the setting.
        say: is told, once, what turns out to stand against it later.

    Raises:
        UserError: `capture` is True, and something stands against it.
    """
    problem = capture_problem(trainer)
    if capture is True and problem is not None:
        raise UserError(f"capture: true cannot be: {problem}. Leave it out (auto captures where it can)")
    if trainer.device.type == "cuda":  # whether captured or not, so that both take the very same steps
        for student in trainer.students:
            if student.update.capture_problem() is None:
                student.prepare_capture(trainer.device)
    if capture is False or problem is not None:
        return PlainSteps(trainer)
    return CapturedSteps(trainer, record=cuda_graph, must=capture is True, say=say)


def capture_problem(trainer: Trainer) -> str | None:
    """Why no step of this trainer can be captured, with the way out; None where nothing is known against it."""
    if trainer.device.type != "cuda":
        return f"the device is {trainer.device.type}, and only CUDA has graphs"
    return step_problem(trainer)


def step_problem(trainer: Trainer) -> str | None:
    """The same, whatever the device."""
    if trainer.world.size > 1:
        return f"{trainer.world.size} processes train together, whose sums are not captured yet; start one"
    for student in trainer.students:
        if student.compile == "reduce-overhead":
            return f"{student.name} is compiled into CUDA graphs of its own; set compile: true or false"
        if (problem := student.update.capture_problem()) is not None:
            return f"{student.name}: {problem}; all that a recipe can name can be captured"
        if student.scaler is not None and (problem := student.update.skip_problem()) is not None:
            return f"{student.name} trains in float16, whose scaler may skip a step: {problem}; set precision: bfloat16"
    return None


class PlainSteps:
    """Steps as they come.

    Args:
        trainer: whose steps.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def __call__(self, batch: AnyBatch) -> list[StepRecord]:
        """Take a step."""
        return self._trainer.replayable_step(batch)

    def forget(self) -> None:
        """Nothing is kept."""


@dataclass(frozen=True, slots=True)
class _Recording:
    """One recorded step."""

    key: Hashable
    batch: AnyBatch  # that it reads
    records: list[StepRecord]  # that it writes
    replay: Callable[[], None]


class CapturedSteps:
    """Steps that are recorded once and replayed.

    Args:
        trainer: whose steps.
        record: records one; `cuda_graph`, but for tests.
        must: whether an obstacle that turns up is an error.
        say: is told of one otherwise.
    """

    def __init__(self, trainer: Trainer, *, record: Recorder, must: bool, say: Callable[[str], None]) -> None:
        self._trainer = trainer
        self._record = record
        self._must = must
        self._say = say
        self._recording: _Recording | None = None
        self._last: Hashable = None  # what the step before had baked in
        self._num_plain = 0  # steps as they come, so far
        self._checked: tuple[int, int] | None = None  # epoch and replay of the last check; None: of this recording none
        self.problem: str | None = None  # what turned up against it
        self.num_recordings = 0
        self.num_replays = 0

    def forget(self) -> None:
        """Drop the recording."""
        self._recording, self._last, self._checked = None, None, None

    def __call__(self, batch: AnyBatch) -> list[StepRecord]:
        """Take a step: replayed where one like it was recorded, recorded where it is the second like it in a row."""
        if self.problem is not None:
            return self._trainer.replayable_step(batch)
        key = self._baked_in(batch)
        if self._recording is not None and self._recording.key == key:
            return self._replayed(self._recording, batch)
        is_second, self._last = self._last == key, key
        if is_second and self._num_plain >= STEPS_BEFORE:
            return self._recorded(key, batch)
        self._num_plain += 1
        return self._watched(batch)

    def _baked_in(self, batch: AnyBatch) -> Hashable:
        """Everything of Python that a recording of this step would have in it."""
        trainer = self._trainer
        shapes = tuple((name, tensor.shape, tensor.dtype, tensor.stride()) for name, tensor in _tensors(batch).items())
        look = None if trainer.teacher is None else trainer.teacher.baked_in(batch)
        made = (batch.make, batch.then) if isinstance(batch, PlannedBatch) else batch.num_plain
        known = (student.baked_in(trainer.epoch, trainer.epochs) for student in trainer.students)
        return shapes, made, look, *known

    def _watched(self, batch: AnyBatch) -> list[StepRecord]:
        """A step as it comes; one that draws random numbers elsewhere than on the device is none to be replayed."""
        names = list(self._random_states())
        before = self._drawn_elsewhere()
        records = self._trainer.replayable_step(batch)
        for name, was, now in zip([*names, "the step"], before, self._drawn_elsewhere(), strict=True):
            if was != now and self.problem is None:
                self._give_up(
                    f"{name} draws random numbers elsewhere than on the GPU (by random, NumPy or a CPU tensor)"
                )
        return records

    def _random_states(self) -> dict[str, RandomState]:
        """What the students draw from, by what draws."""
        students = self._trainer.students
        own = {student.name: student.random_state for student in students}
        return own | {f"a method of {student.name}": student.shared_random_state for student in students}

    def _drawn_elsewhere(self) -> list[object]:
        """Where the generators of each of these, and then those of the process, stand, but for the device's."""
        known = [state.state_dict() for state in self._random_states().values()]
        found = [
            [
                (device, value.numpy().tobytes())
                for device, value in state.items()
                if device != self._trainer.device.type
            ]
            for state in (*known, random_state())
        ]
        return [*found[:-1], (found[-1], random.getstate(), pickle.dumps(np.random.get_state()))]

    def _recorded(self, key: Hashable, batch: AnyBatch) -> list[StepRecord]:
        """Take a step while it is recorded; what fails is taken as it comes, and so is all that follows."""
        still = _still(batch)
        optimizers = [student.update.optimizer for student in self._trainer.students]
        groups = [[dict(group) for group in optimizer.param_groups] for optimizer in optimizers]
        drawn_from = list(self._random_states().values())
        stood_at = [state.state_dict() for state in drawn_from]
        try:
            records, replay = self._record(lambda: self._trainer.replayable_step(still), drawn_from)
        except (RuntimeError, NotImplementedError) as error:  # torch's: an operation that waits, or no memory left
            problem = in_words(error, batch.num_images)
        else:
            self._recording, self._checked = _Recording(key, still, records, replay), None
            self.num_recordings += 1
            return records
        # Only here the error, and what it holds of the recording's memory, is gone.
        for state, stood in zip(drawn_from, stood_at, strict=True):
            state.load_state_dict(stood)
        for student in self._trainer.students:
            student.scaler = renewed_scaler(student.scaler, self._trainer.device)
        for optimizer, before in zip(optimizers, groups, strict=True):
            optimizer.zero_grad()  # what the recording made has no values
            for group, was in zip(optimizer.param_groups, before, strict=True):
                group.update(was)
        self._give_up(problem)
        return self._trainer.replayable_step(batch)

    def _replayed(self, recording: _Recording, batch: AnyBatch) -> list[StepRecord]:
        for name, tensor in _tensors(batch).items():
            getattr(recording.batch, name).copy_(tensor, non_blocking=True)
        self._last = recording.key
        self.num_replays += 1
        if not self._is_check_due():
            return self._replay(recording)
        self._checked = self._trainer.epoch, self.num_replays
        records, problem = checked_replay(
            self._trainer.students,
            lambda: self._trainer.replayable_step(batch),
            lambda: self._replay(recording),
        )
        if problem is not None:
            self._give_up(problem)
        return records

    def _replay(self, recording: _Recording) -> list[StepRecord]:
        recording.replay()
        for student in self._trainer.students:
            student.update.count_replay()
        return recording.records

    def _is_check_due(self) -> bool:
        """Whether this replay is the first of its recording, or long after the last one that was checked."""
        if self._checked is None:
            return True
        epoch, replay = self._checked
        return self._trainer.epoch > epoch and self.num_replays - replay >= REPLAYS_BETWEEN_CHECKS

    def _give_up(self, problem: str) -> None:
        """Take steps as they come from here on."""
        self.problem = problem
        self.forget()
        if self._must:
            raise UserError(f"capture: true cannot be: {problem}. Leave it out (auto captures where it can)")
        self._say(f"steps are not captured as a CUDA graph: {problem}")


def _tensors(batch: AnyBatch) -> dict[str, Tensor]:
    """What a batch consists of, by name."""
    named = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def _still(batch: AnyBatch) -> AnyBatch:
    """The batch in tensors of its own."""
    copies: dict[str, Any] = {name: tensor.clone() for name, tensor in _tensors(batch).items()}
    return replace(batch, **copies)
