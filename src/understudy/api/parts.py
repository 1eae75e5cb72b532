"""The parts of a run from networks and data that Python hands over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from understudy.api.named import network_from, splits_at
from understudy.core.networks import copied
from understudy.data import dataset_splits
from understudy.data.splits import size_as_given
from understudy.distributed.launch import device_named
from understudy.models import Network, in_format
from understudy.recipes.schema import Recipe
from understudy.runs.components import Components, live_teacher, task_of
from understudy.runs.data_task import with_task_of
from understudy.runs.networks import LARGE_IMAGE_SIZE, keeping_classes
from understudy.runs.teacher_classes import resolved_classes

__all__ = ["parts_in_memory"]


def parts_in_memory(
    recipe: Recipe,
    teacher: nn.Module | str | None,
    student: nn.Module | str,
    sets: tuple[Any, Any, Any],
    *,
    root: str | None,
    classes: Sequence[str] | None,
) -> Components:
    """Components of networks and data of which some were handed over; of networks, copies.

    Args:
        recipe: everything else.
        teacher: a network, its name, or None.
        student: likewise.
        sets: data sets to train, validate and test on.
        root: the folder that is read in their place; None: they are read.
        classes: names of the data sets' classes, where they are given.

    Raises:
        UserError: networks or data that cannot be taken.
    """
    if root is None:
        train, val, test = sets
        given = [module for module in (teacher, student) if isinstance(module, nn.Module)]
        name = type(train).__name__
        data = dataset_splits(train, val, test, classes=classes, name=name, config=recipe.data, networks=given)
        recipe = with_task_of(recipe, data)
        image_size = recipe.data.image_size or data.window or size_as_given(data)
    else:
        data = splits_at(recipe.data, root)
        recipe = with_task_of(recipe, data)
        image_size = recipe.data.image_size or data.native_size or data.window or LARGE_IMAGE_SIZE
    device = device_named(recipe.device)
    build = partial(network_from, data=data, config=recipe.data, seed=recipe.seeds[0], image_size=image_size)
    first = in_format(build(student, role="student"), recipe.channels_last is not False)

    def fresh_student() -> Network:
        return in_format(replace(first, module=copied(first.module, role="student")), recipe.channels_last is not False)

    network = None if teacher is None else in_format(build(teacher, role="teacher"), recipe.channels_last is not False)
    if network is not None and recipe.teacher is not None and recipe.teacher.classes is not None:
        kept = resolved_classes(recipe.teacher, data.classes)
        network = keeping_classes(network, kept, image_size)
        recipe = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"classes": kept})})
    return Components(
        recipe=recipe,
        data=data,
        device=device,
        image_size=image_size,
        task=task_of(recipe, data),
        student_network=fresh_student(),
        make_student=fresh_student,
        teacher=None if network is None else live_teacher(network, device, recipe, image_size=image_size),
        teacher_network=network,
        teacher_size=None,
    )
