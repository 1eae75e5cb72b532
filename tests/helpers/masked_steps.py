"""A step and an evaluation of segmentation, by as many processes as there are."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from helpers.shapes import CLASSES, Segmenter, labelled_batch
from understudy import Batch, Joint, LiveTeacher, StudentSpec
from understudy.data.loaders.plan import Share
from understudy.distributed.launch import joined
from understudy.distributed.world import World
from understudy.methods import METHODS
from understudy.tasks.segmentation import Segmentation, SegmentationConfig
from understudy.training.build import BuildContext, build_student, tap_teacher
from understudy.training.student import Student

NUM_IMAGES = 5  # two on the first process, three on the second


def network(seed: int, dtype: torch.dtype = torch.float64) -> Segmenter:
    """Without batch statistics, which would be of a process."""
    made = Segmenter(seed)
    made.first[1] = nn.Identity()
    return made.to(dtype)


def masked_step(
    method: str, settings: dict[str, Any], rows: Literal["all", "valid"]
) -> tuple[Tensor, dict[str, float]]:
    """The classifier's weight after a step, and scores of all images."""
    with joined() as world:
        student, task, batch = _stepped(world, method, settings, rows)
        found = task.evaluate({"it": student.predict}, [batch], torch.device("cpu"), world)["it"]
        return student.model.module.classifier.weight.detach(), dict(found.scores)


def remembered_steps(
    method: str, settings: dict[str, Any], num_steps: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, dict[str, Tensor]]:
    """The classifier's weight after some steps, and what the method's connectors and memories hold then."""
    with joined() as world:
        student, _, _ = _stepped(world, method, settings, "all", num_steps=num_steps, dtype=dtype)
        return student.model.module.classifier.weight.detach(), dict(student.connectors.state_dict())


def _stepped(
    world: World,
    method: str,
    settings: dict[str, Any],
    rows: Literal["all", "valid"],
    *,
    num_steps: int = 1,
    dtype: torch.dtype = torch.float64,
) -> tuple[Student, Segmentation, Batch]:
    """A student after steps on this process's share of the images."""
    whole = labelled_batch(NUM_IMAGES)
    share = Share(world.rank, world.size).of(range(NUM_IMAGES))
    batch = whole.select(slice(share.start, share.stop))
    batch = Batch(batch.images.to(dtype), batch.targets, indices=batch.indices)
    teacher, config = LiveTeacher(network(1, dtype)), METHODS[method].Config(**settings)
    tap_teacher(teacher, [config])
    task = Segmentation(CLASSES, settings=SegmentationConfig(rows=rows))
    around = BuildContext(task, CLASSES, batch.images, teacher, world=world)
    student = build_student(StudentSpec(network(0, dtype), method=config, update=Joint.Config(lr=0.5)), around)
    student.connectors.to(dtype)
    student.train()
    for _ in range(num_steps):
        student.begin_step(progress=0.0, epochs=2)
        student.step(batch, teacher.observe(batch), epoch=1, rows=world.rows(len(batch.images)))
    return student, task, batch
