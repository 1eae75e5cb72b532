"""Parts of runs on a GPU that is not there (pretended_cuda)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from torch import Tensor

from helpers.pretended_cuda import CUDA, devices_of
from understudy import Recipe
from understudy.core.batch import Batch, Observation
from understudy.core.boxes import Boxes
from understudy.core.precision import upcast_all
from understudy.distributed.world import RankCounts
from understudy.recipes.comparison import rows_of
from understudy.runs.build import build_trainer
from understudy.runs.component_changes import with_teacher
from understudy.runs.components import Components, open_components
from understudy.training.loss import PassShare, combine_losses
from understudy.training.metrics import record_of
from understudy.training.student import Student
from understudy.training.trainer import Trainer

__all__ = ["check_losses", "on_cuda", "opened", "tensors_in", "trainer_of"]


def opened(recipe: Recipe) -> Components:
    """A run's parts on the CPU; enter `pretended_cuda` and move them with `on_cuda`."""
    return open_components(recipe, allow_code=False, say=lambda _: None)


def on_cuda(components: Components) -> Components:
    """As `in_world` moves them where there is a GPU."""
    assert components.teacher_network is not None
    return with_teacher(replace(components, device=CUDA), components.teacher_network)


def trainer_of(components: Components) -> Trainer:
    """All rows of the first seed."""
    return build_trainer(components, rows_of(components.recipe), 0)


def check_losses(trainer: Trainer, batch: Batch) -> None:
    """Work out every student's losses on a batch, and what is logged of them, all of which must lie on the device."""
    targets = batch.targets.labels if isinstance(batch.targets, Boxes) else batch.targets
    assert {batch.images.device, targets.device} == {CUDA}
    assert trainer.teacher is not None
    observation = trainer.teacher.observe(batch)
    for student in trainer.students:
        _check_losses(trainer, student, batch, observation)


def _check_losses(trainer: Trainer, student: Student, batch: Batch, observation: Observation) -> None:
    student.begin_step(progress=0.0, epochs=1)
    task_loss, found = student.task.pair(student.model, observation, batch)
    pairings = upcast_all(found)
    losses, whole = combine_losses(
        task_loss,
        pairings,
        student.methods,
        task_weight=student.task_weight,
        epoch=1,
        part=PassShare(RankCounts((len(batch.images),))),
        random_state=student.shared_random_state,
    )
    assert devices_of(tensors_in([losses.task, losses.distill, losses.terms])) == {"cuda"}, student.name
    shown = pairings["main"]
    trainer.measures.add(student.name, record_of(whole, shown, student.task.batch_measures(shown)))


def tensors_in(state: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        yield from chain.from_iterable(map(tensors_in, state.values()))
    elif isinstance(state, list | tuple):
        yield from chain.from_iterable(map(tensors_in, state))
