"""trainer(): a Trainer composed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from understudy.core.batch import Batch
from understudy.data.loaders.plain import as_batch
from understudy.tasks import Task
from understudy.teachers import LiveTeacher, Teacher
from understudy.training.build import BuildContext, build_student, tap_teacher
from understudy.training.shared_layers import refuse_shared_parts
from understudy.training.spec import StudentSpec
from understudy.training.trainer import Trainer
from understudy.utils.errors import UserError, shortened_repr

__all__ = ["trainer"]


def trainer(
    *,
    task: Task,
    students: Sequence[StudentSpec],
    sample: Batch | tuple[Tensor, Tensor],
    teacher: Teacher | nn.Module | None = None,
    train_labels: Tensor | None = None,
    seed: int = 0,
) -> Trainer:
    """A Trainer composed by hand: settings in, parts built after one dry forward of `sample`.

    Args:
        task: such as `Classification(num_classes=10)`.
        students: one or several; they share every batch and every teacher pass. Their networks are trained
            themselves, where they are, not as copies.
        sample: a batch, or (images, labels) from your loader, on the device to train on; only its shape matters.
        teacher: a LiveTeacher or another Teacher, or the network to make one of; None trains the students alone.
        train_labels: (N,); methods that keep a memory of the training set need them.
        seed: of connectors, dropout and negatives.

    Raises:
        UserError: what a recipe would be refused for as well: two students of one name, networks that share a layer,
            a tap that is not there, class counts that differ.
    """
    first = as_batch(sample)
    specs = [students] if isinstance(students, StudentSpec) else list(students)
    _refuse_other_things(specs, teacher, train_labels, seed)
    teacher = LiveTeacher(teacher) if isinstance(teacher, nn.Module) else teacher
    networks = {
        f"student {spec.row_name}" if i == 0 else f"student {i + 1}, {spec.row_name},": spec.model
        for i, spec in enumerate(specs)
    }
    refuse_shared_parts({**networks, **({} if teacher is None else teacher.networks)})
    images = first.images
    if teacher is not None:
        teacher.to(images.device)
        tap_teacher(teacher, [config for spec in specs for config in spec.methods])
    around = BuildContext(
        task=task,
        num_classes=task.num_classes,
        sample=images,
        teacher=teacher,
        teacher_sample=first.teacher_images,
        train_labels=train_labels,
        seed=seed,
    )
    return Trainer([build_student(spec, around) for spec in specs], teacher=teacher, device=images.device)


def _refuse_other_things(specs: Sequence[Any], teacher: object, train_labels: object, seed: object) -> None:
    """Refuse arguments of another kind than `trainer` takes."""
    strange = next((spec for spec in specs if not isinstance(spec, StudentSpec)), None)
    if strange is not None:
        raise UserError(f"students must be understudy.StudentSpec(network, ...), got {shortened_repr(strange)}")
    if teacher is not None and not isinstance(teacher, Teacher | nn.Module):
        raise UserError(f"teacher must be understudy.LiveTeacher(network), a network or None, got {teacher!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UserError(f"seed must be a whole number, got {seed!r}")
    is_labels = isinstance(train_labels, Tensor) and train_labels.ndim == 1 and not train_labels.is_floating_point()
    if train_labels is not None and not is_labels:
        raise UserError("train_labels must be a tensor (N,) of class numbers, in the order of the samples' indices")
