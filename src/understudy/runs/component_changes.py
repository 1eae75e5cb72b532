"""What changes of components after they are opened, and why: every copy of them is made here.

Opening settles what a recipe names. What is known only later gives a changed copy, never a change in place:

- objects handed over in Python come before their recipe and their process: `with_recipe`, `in_world`;
- the run folder says with how many views of a bank the run began: `with_views`;
- measuring says in which memory format the networks are faster: `with_student_form`, `with_teacher`;
- a teacher may be trained first: `with_teacher`;
- several teachers are scored and banked one by one: `teachers_apart`;
- a bank keeps an epoch's last, smaller batch, which a run may leave out: `with_data_settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from understudy.core.outputs import LOGITS
from understudy.distributed.launch import device_named
from understudy.distributed.world import World
from understudy.models import Network
from understudy.models.several import SeveralNetworks
from understudy.recipes.schema import Recipe
from understudy.runs.components import Components, live_teacher
from understudy.teachers import SeveralRunTeachers, SeveralTeachers

__all__ = [
    "in_world",
    "teachers_apart",
    "with_data_settings",
    "with_recipe",
    "with_student_form",
    "with_teacher",
    "with_views",
]


def with_recipe(components: Components, recipe: Recipe) -> Components:
    """The same components under another recipe, which names none that differ."""
    return components if components.recipe == recipe else replace(components, recipe=recipe)


def with_data_settings(components: Components, settings: Mapping[str, object]) -> Components:
    """The same components, some settings of their data others, which must not change what was opened."""
    data = components.recipe.data.model_copy(update=settings)
    return with_recipe(components, components.recipe.model_copy(update={"data": data}))


def with_views(components: Components, num_views: int) -> Components:
    """The same components, in whose recipe the bank has so many views: those that the run began with."""
    bank = components.recipe.bank
    assert bank is not None, "views are those of a bank"
    kept = bank.model_copy(update={"num_views": num_views})
    return with_recipe(components, components.recipe.model_copy(update={"bank": kept}))


def in_world(components: Components, world: World) -> Components:
    """The same components for one of several processes, on its own device."""
    moved = replace(components, world=world, device=device_named(components.recipe.device, world))
    return moved if components.teacher_network is None else with_teacher(moved, components.teacher_network)


def with_student_form(components: Components, form: Callable[[Network], Network]) -> Components:
    """The same components, every student that they make put into another form of the same network."""
    return replace(
        components,
        student_network=form(components.student_network),
        make_student=lambda: form(components.make_student()),
    )


def with_teacher(components: Components, network: Network) -> Components:
    """The same components with this network as the teacher."""
    size = components.teacher_size or components.image_size
    teacher = live_teacher(network, components.device, components.recipe, image_size=size)
    return replace(components, teacher_network=network, teacher=teacher)


def teachers_apart(components: Components) -> dict[str | None, Components]:
    """The same components for each teacher by itself: None is the first, others have the head that learns from them."""
    teacher, network = components.teacher, components.teacher_network
    if not isinstance(teacher, SeveralTeachers | SeveralRunTeachers):
        return {None: components}
    settings = components.recipe.teacher
    assert settings is not None, "teachers are named in the recipe"
    networks = network.module.parts if network is not None and isinstance(network.module, SeveralNetworks) else {}
    apart: dict[str | None, Components] = {}
    for name, part in teacher.parts.items():
        head = None if name == LOGITS else name
        recipe = components.recipe.model_copy(update={"teacher": settings.only(head)})
        apart[head] = replace(components, recipe=recipe, teacher=part, teacher_network=networks.get(name))
    return apart
