"""Detectors on two processes: the scores of one, the same weights on both, rows of proposals related across them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.drawn_shapes import CLASSES, drawn_batches, small_detector
from helpers.states import differing, flat
from helpers.two_processes import TwoProcesses
from understudy.core.batch import Batch
from understudy.distributed.launch import joined
from understudy.distributed.world import SINGLE, World
from understudy.methods import METHODS
from understudy.optim import Joint
from understudy.tasks import Detection
from understudy.teachers import LiveTeacher
from understudy.training.build import BuildContext, build_student, tap_teacher
from understudy.training.spec import StudentSpec


def share_of(batch: Batch, world: World) -> Batch:
    """The images of this process; the first one has one more."""
    middle = (len(batch.images) + 1) // 2
    return batch if world.size == 1 else batch.select(slice(0, middle) if world.is_first else slice(middle, None))


def trained_and_scored(world: World | None = None) -> tuple[dict[str, Any], dict[str, float]]:
    """A student's state after two steps, and its scores before them."""
    with joined() as joint:
        world = world or joint
        batches, task, teacher = drawn_batches(2, 3), Detection(CLASSES), LiveTeacher(small_detector(1))
        methods = [METHODS["dist"].Config(), METHODS["fitnet"].Config()]
        tap_teacher(teacher, methods)
        around = BuildContext(
            task=task, num_classes=CLASSES, sample=batches[0].images, teacher=teacher, seed=0, world=world
        )
        student = build_student(StudentSpec(small_detector(0), method=methods, update=Joint.Config(lr=1e-3)), around)
        student.train(False)
        found = task.evaluate(
            {"it": student.predict}, [share_of(batch, world) for batch in batches], torch.device("cpu"), world
        )
        student.train()
        for batch in batches:
            here = share_of(batch, world)
            student.begin_step(progress=0.0, epochs=1)
            student.step(here, teacher.observe(here), epoch=1, rows=world.rows(len(here.images)))
        return flat({"model": student.model.module.state_dict(), "by": student.connectors.state_dict()}), found[
            "it"
        ].scores


@pytest.mark.slow
def test_two_processes_score_as_one_and_end_with_the_same_weights(pair: TwoProcesses) -> None:
    pair.start(trained_and_scored)
    _, expected = trained_and_scored(SINGLE)
    (first, scores), (second, others) = pair.finish()
    assert scores == others == expected
    assert differing(first, second) == []
    assert all(tensor.isfinite().all() for tensor in first.values() if isinstance(tensor, torch.Tensor))
