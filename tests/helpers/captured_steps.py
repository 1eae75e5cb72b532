"""Trainers of small networks whose steps are captured on the CPU (recorded_ops), and twins whose steps are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from helpers.engine import CLASSES, CPU, batches, small_net, small_teacher, spec_of
from helpers.recorded_ops import recorded_ops
from understudy import Trainer
from understudy.tasks import Classification
from understudy.training.build import BuildContext, build_student, tap_teacher
from understudy.training.capture import CapturedSteps
from understudy.training.spec import StudentSpec

__all__ = ["captured", "data", "plain", "specs_of", "trainer_of"]


def trainer_of(specs: list[StudentSpec], **options: Any) -> Trainer:
    teacher = small_teacher()
    tap_teacher(teacher, [config for spec in specs for config in spec.methods])
    around = BuildContext(
        task=Classification(CLASSES), num_classes=CLASSES, sample=batches()[0].images, teacher=teacher,
        train_labels=torch.arange(1000) % CLASSES,
    )  # fmt: skip
    return Trainer([build_student(spec, around) for spec in specs], teacher=teacher, device=CPU, log_every=4, **options)


def specs_of(rows: list[str], **options: Any) -> list[StudentSpec]:
    return [
        StudentSpec(small_net(3), method=spec.method, update=spec.update, name=spec.name, **options)
        for spec in (spec_of(row, dropout=0.0) for row in rows)
    ]


def captured(trainer: Trainer, *, must: bool = True, say: Callable[[str], None] = print) -> CapturedSteps:
    """Its steps from here on, recorded and replayed as on a GPU."""
    for student in trainer.students:
        student.prepare_capture(CPU)
    steps = trainer._captured = CapturedSteps(trainer, record=recorded_ops, must=must, say=say)
    return steps


def plain(trainer: Trainer) -> Trainer:
    """Its steps as they come, with the same numbers on the device."""
    for student in trainer.students:
        student.prepare_capture(CPU)
    return trainer


def data(steps: int = 9) -> list[tuple[Tensor, Tensor]]:
    return [(batch.images, batch.targets) for batch in batches(steps, last=5)]
