"""What every registered method must do under every update, from a CNN and from a ViT."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch

from helpers.smallest_settings import OF_ANY_IMAGES, SMALLEST, STUDENTS, TEACHERS, settings_of
from helpers.states import differing, flat
from understudy.methods import METHODS
from understudy.recipes.comparison import Variant, rows_of
from understudy.recipes.schema import Recipe
from understudy.runs.build import build_trainer
from understudy.runs.checks import check_rows
from understudy.runs.components import Components, open_components
from understudy.training.trainer import Trainer
from understudy.utils.errors import UserError

ENTERED = sorted(set(METHODS) & set(SMALLEST))  # that these are all, the first test says
PAIRS = list(product(ENTERED, TEACHERS))
REFUSED = [(method, teacher) for method, teacher in PAIRS if teacher in SMALLEST[method].refuses]
CASES = [
    pytest.param(method, update, teacher, id=f"{method}-{update}-{teacher}")
    for (method, teacher), update in product(PAIRS, ["joint", "dot", "deepkd"])
    if (method, teacher) not in REFUSED and (update != "deepkd" or METHODS[method].streams)
]


def recipe_of(method: str, update: str, teacher: str) -> Recipe:
    data = {"root": "digits", "train_rows": "0:48", "val_rows": "1000:1016", "batch_size": 16, "image_size": 8}
    return Recipe.read(
        {
            "data": {**data, **SMALLEST[method].data},
            "teacher": TEACHERS[teacher],
            "student": STUDENTS[SMALLEST[method].student],
            "method": settings_of(method, teacher),
            "update": {"name": update, "lr": 0.01},
            "epochs": 1,
            "device": "cpu",
        },
        what=f"{method} at its smallest",
    )


def built(method: str, update: str, teacher: str) -> tuple[Components, list[Variant], Trainer]:
    recipe = recipe_of(method, update, teacher)
    components, rows = open_components(recipe, allow_code=False, say=lambda text: None), rows_of(recipe)
    check_rows(components, rows)
    trainer = build_trainer(components, rows, 0)
    loader = components.train_loader(0)
    trainer.begin(epochs=1, steps_per_epoch=loader.steps_per_epoch)
    return components, rows, trainer


def test_every_registered_method_has_its_smallest_settings() -> None:
    assert sorted(SMALLEST) == sorted(METHODS), "add the method to helpers/smallest_settings.py"


@pytest.mark.parametrize(("method", "update", "teacher"), CASES)
def test_three_steps(method: str, update: str, teacher: str) -> None:
    """Finite losses; student and connectors move, the teacher does not; the state comes back bit for bit."""
    components, rows, trainer = built(method, update, teacher)
    student = trainer.students[0]
    before = flat(student.state_dict())
    teacher_before = flat(components.teacher.model.module.state_dict())
    losses = []
    student.train()
    for batch in components.train_loader(0).epoch(1):
        trainer.take_step(batch)
        trainer.measures.close_interval()
        losses.append(trainer.measures.interval[student.name])
        trainer.step_in_epoch += 1
    after = flat(student.state_dict())
    moved = differing(before, after)

    assert len(losses) == 3
    assert all(torch.tensor(list(step.values())).isfinite().all() for step in losses), losses
    assert any(name.startswith("/model/") and name.endswith("weight") for name in moved)
    weights = [f"/connectors/{name}" for name, p in student.connectors.named_parameters() if p.requires_grad]
    assert set(weights) <= set(moved)
    assert bool(weights) == SMALLEST[method].has_connectors
    assert differing(teacher_before, flat(components.teacher.model.module.state_dict())) == []

    fresh = build_trainer(components, rows, 1).students[0]
    fresh.load_state_dict(student.state_dict())
    assert differing(after, flat(fresh.state_dict())) == []


@pytest.mark.parametrize(("method", "teacher"), REFUSED)
def test_a_teacher_that_a_method_cannot_learn_from_is_refused_in_words(method: str, teacher: str) -> None:
    with pytest.raises(UserError, match=SMALLEST[method].refuses[teacher]):
        built(method, "joint", teacher)


def fitting(method: str) -> str:
    """A teacher that the method can learn from."""
    return next(teacher for teacher in TEACHERS if (method, teacher) not in REFUSED)


@pytest.mark.parametrize("method", OF_ANY_IMAGES)
def test_a_restored_student_takes_the_same_next_step(method: str) -> None:
    components, rows, trainer = built(method, "dot", fitting(method))
    first, *others = components.train_loader(0).epoch(1)
    student, restored = trainer.students[0], build_trainer(components, rows, 1).students[0]
    for each in (student, restored):
        each.train()
        each.set_epoch(1, 1)
    student.step(first, components.teacher.observe(first), epoch=1)
    restored.load_state_dict(copy.deepcopy(student.state_dict()))  # as through a file: torch shares momenta
    for batch in others:
        for each in (student, restored):
            each.step(batch, components.teacher.observe(batch), epoch=1)
    assert differing(flat(student.state_dict()), flat(restored.state_dict())) == []


@pytest.mark.parametrize("method", OF_ANY_IMAGES)
def test_a_row_beside_others_ends_as_the_row_alone(method: str) -> None:
    def after_three_steps(with_others: bool) -> dict[str, Any]:
        components, rows, trainer = built(method, "dot", fitting(method))
        if with_others:
            recipe = components.recipe.model_copy(update={"rows": ("alone", "dist")})
            trainer = build_trainer(components, [rows_of(recipe)[0], *rows], 0)
        trainer.begin(epochs=1, steps_per_epoch=3)
        for student in trainer.students:
            student.train()
        for batch in components.train_loader(0).epoch(1):
            trainer.take_step(batch)
            trainer.step_in_epoch += 1
        return flat(trainer.students[-1].state_dict())

    assert differing(after_three_steps(with_others=False), after_three_steps(with_others=True)) == []
