"""Every method's step, recorded and replayed, beside the same step as Python goes through it."""

from __future__ import annotations

import gc

import pytest
import torch

from helpers.recorded_ops import recorded_ops
from helpers.shared_steps import recipe_of
from helpers.smallest_settings import OF_IMAGES, SMALLEST
from helpers.states import tensors_of
from understudy.recipes.comparison import rows_of
from understudy.runs.build import build_trainer
from understudy.runs.components import open_components
from understudy.training.capture import CapturedSteps
from understudy.training.trainer import Trainer


def trained(method: str, passes: int, *, is_captured: bool, said: list[str]) -> Trainer:
    settings = {"data": {"train_rows": "0:64"}, "epochs": 2, "accumulate": passes}
    recipe = recipe_of(method, "dot" if method != "tfkd" else "joint", settings)
    components = open_components(recipe, allow_code=True, say=lambda note: None)
    trainer = build_trainer(components, rows_of(recipe), 0)
    for student in trainer.students:
        student.prepare_capture(components.device)
    if is_captured:
        trainer._captured = CapturedSteps(trainer, record=recorded_ops, must=False, say=said.append)
    trainer.fit(components.train_loader(0), epochs=2)
    return trainer


CASES = [(method, 1) for method in OF_IMAGES]
CASES += [(method, 2) for method in OF_IMAGES if "copies" not in SMALLEST[method].data]  # which no pass may tear apart


@pytest.mark.slow
@pytest.mark.parametrize(("method", "passes"), CASES)
def test_replays_are_the_steps_of_every_method(method: str, passes: int) -> None:
    said: list[str] = []
    plain, captured = (trained(method, passes, is_captured=is_captured, said=said) for is_captured in (False, True))
    for name, value in tensors_of(plain.students[0]).items():
        assert torch.equal(tensors_of(captured.students[0])[name], value), name
    assert said == []
    assert captured._captured.num_replays > 8


@pytest.mark.slow
@pytest.mark.parametrize("update", ["joint", "dot"])
@pytest.mark.parametrize("method", [method for method in OF_IMAGES if method != "tfkd"])
def test_a_step_leaves_nothing_of_its_graph_behind(method: str, update: str) -> None:
    """A parameter's gradient is added up on the stream on which what is left was made: not the one that records."""
    components = open_components(
        recipe_of(method, update, {"data": {"train_rows": "0:64"}, "epochs": 1, "ema": {"decay": 0.9}}),
        allow_code=True,
        say=lambda note: None,
    )
    trainer = build_trainer(components, rows_of(components.recipe), 0)
    gc.collect()
    before = {id(value) for value in values_with_graph()}
    trainer.fit(components.train_loader(0), epochs=1)
    gc.collect()
    assert [value.shape for value in values_with_graph() if id(value) not in before] == []


def values_with_graph() -> list[torch.Tensor]:
    return [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor) and one.grad_fn is not None]
