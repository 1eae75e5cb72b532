"""Student and teacher as a recipe names them: built for the data's classes, or for those that the teacher has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from understudy.core.image_size import ImageSize, height_and_width
from understudy.data import DataSplits
from understudy.distributed.world import World
from understudy.models import Network, create_model, in_format
from understudy.models.class_names import class_names
from understudy.models.several import beside
from understudy.models.weights import classes_in
from understudy.recipes.schema import Recipe, StudentConfig, TeacherConfig
from understudy.runs.teacher_classes import keep_classes_, resolved_classes
from understudy.utils.errors import UserError

__all__ = ["LARGE_IMAGE_SIZE", "keeping_classes", "network_named", "teacher_named", "with_classes_numbered"]

LARGE_IMAGE_SIZE = 224  # where neither recipe nor model names one


def with_classes_numbered(recipe: Recipe, data: DataSplits) -> Recipe:
    """The recipe with the teacher's classes themselves in place of a file of them: they are a part of what is run."""
    teacher = recipe.teacher
    if teacher is None or teacher.classes is None:
        return recipe
    numbered = teacher.model_copy(update={"classes": resolved_classes(teacher, data.classes)})
    return recipe.model_copy(update={"teacher": numbered})


def keeping_classes(network: Network, classes: Sequence[int], size: ImageSize) -> Network:
    """The same network, a teacher's, that tells these of its classes apart alone."""
    images = torch.rand(2, 3, *height_and_width(size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        total = keep_classes_(network.module, classes, network.prepare(images))
    said = f"{network.starts_from}, {len(classes)} of its {total:,} classes"
    return replace(network, num_classes=len(classes), starts_from=said)


def network_named(
    settings: StudentConfig | TeacherConfig, *, recipe: Recipe, data: DataSplits, allow_code: bool, world: World
) -> Network:
    """A student or teacher as the recipe wants it."""
    classes = None if isinstance(settings, StudentConfig) else settings.classes
    if classes is None:
        return _network_for(len(data.classes), settings, recipe=recipe, data=data, allow_code=allow_code, world=world)
    settings = settings.model_copy(update={"weights": settings.weights or "pretrained"})  # random ones know no classes
    create = partial(_network_for, settings=settings, recipe=recipe, data=data, allow_code=allow_code, world=world)
    network = create(_own_classes(settings, create))
    size = network.prepare.size or recipe.data.image_size or data.native_size or network.input_size or LARGE_IMAGE_SIZE
    return keeping_classes(network, [int(number) for number in classes], size)


def teacher_named(recipe: Recipe, create: Callable[[TeacherConfig], Network]) -> Network:
    """The teacher of a recipe, with those beside it that single heads learn from."""
    assert recipe.teacher is not None
    first = create(recipe.teacher)
    others = {head: create(recipe.teacher.only(head)) for head in recipe.teacher.also}
    return beside(first, others) if others else first


def _own_classes(settings: StudentConfig | TeacherConfig, create: Callable[..., Network]) -> int:
    """How many classes the teacher's weights are for."""
    weights = settings.weights
    if weights in (None, "pretrained"):
        names = class_names(settings.model, weights)
        found = None if names is None else len(names)
    else:
        assert weights is not None
        bare = settings.model_copy(update={"weights": "none"})
        found = classes_in(create(2, settings=bare).module, weights)
    if found is None:
        raise UserError(
            f"teacher.classes: how many classes {settings.model} has with weights {weights} is not known; give a file "
            "of weights that fits it"
        )
    return found


def _network_for(
    num_classes: int,
    settings: StudentConfig | TeacherConfig,
    *,
    recipe: Recipe,
    data: DataSplits,
    allow_code: bool,
    world: World,
) -> Network:
    """Likewise, for so many classes."""
    network = create_model(
        settings.model,
        num_classes=num_classes,
        weights=settings.weights,
        image_size=settings.size_asked_for(recipe.data),
        mean=data.mean,
        std=data.std,
        allow_code=allow_code,
        kwargs=settings.kwargs,
        weights_setting="teacher.weights" if isinstance(settings, TeacherConfig) else "student.weights",
        size_setting="teacher.image_size" if isinstance(settings, TeacherConfig) else "data.image_size",
        # Weights for other classes are a start for whoever is going to be trained on these.
        new_head=isinstance(settings, StudentConfig) or settings.train_epochs > 0,
    )
    network = in_format(network, recipe.channels_last is not False)  # auto: until a run has measured
    if recipe.sync_batch_norm and world.size > 1 and isinstance(settings, StudentConfig):
        network = replace(network, module=nn.SyncBatchNorm.convert_sync_batchnorm(network.module))  # type: ignore[no-untyped-call]
    return network
