"""Masks and tokens on a GPU that is not there (pretended_cuda): everything that a run computes lies on one device."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest

from helpers.engine import tiny_recipe
from helpers.masks import masks_folder
from helpers.pretended_cuda import devices_of, pretended_cuda
from helpers.pretended_runs import check_losses, on_cuda, opened, trainer_of
from understudy import Recipe
from understudy.models.cost import count_macs, images_per_second, model_facts
from understudy.recipes.comparison import rows_of
from understudy.runs.build import deployed_network
from understudy.runs.components import Components

MASKS = {
    "model": "deeplabv3:resnet10t",
    "kwargs": {"width": 8, "channels": [8, 8, 8, 8], "stem_width": 8},
    "weights": "none",
}
TOKENS = {
    "model": "understudy:deit_conv_tiny",
    "kwargs": {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2},
    "weights": "none",
}


def of_masks(folder: Path) -> Recipe:
    settings = {
        "data": {"root": str(masks_folder(folder)), "batch_size": 3, "image_size": 32, "workers": 0},
        "teacher": {**MASKS, "allow_weak": True},
        "student": MASKS,
        "rows": ["alone", "cwd", {"name": "dist", "method": {"name": "dist", "on": {"main": 1, "aux": 0.4}}}],
        "epochs": 1,
        "fold_teacher": False,
    }
    return Recipe.read(settings, what="the test's recipe")


def of_tokens(folder: Path) -> Recipe:
    rows = ["alone", "deit+dot", {"name": "token", "method": {"name": "dist", "on": "distilled"}}]
    return tiny_recipe({"student": TOKENS, "rows": rows, "seeds": [0], "ema": 0.9, "fold_teacher": False})


@pytest.fixture(params=[of_masks, of_tokens], ids=["masks", "tokens"])
def components(request: pytest.FixtureRequest, tmp_path: Path) -> Components:
    make: Callable[[Path], Recipe] = request.param
    return opened(make(tmp_path))


def test_losses_lie_on_the_device(components: Components) -> None:
    with pretended_cuda():
        components = on_cuda(components)
        check_losses(trainer_of(components), next(iter(components.train_loader(0).epoch(1))))


def test_evaluation_stays_there(components: Components) -> None:
    with pretended_cuda():
        components = on_cuda(components)
        trainer = trainer_of(components)
        found = trainer.evaluate(components.eval_loader("val"))
    assert set(found) == {row.name for row in rows_of(components.recipe)}


def test_students_are_counted_timed_and_shown_there(components: Components) -> None:
    size = components.image_size
    expected = count_macs(components.student_network.prepared, size)
    with pretended_cuda():
        components = on_cuda(components)
        for student in trainer_of(components).students:
            network = deployed_network(components, student)
            assert devices_of(chain(network.prepared.parameters(), network.prepared.buffers())) == {"cuda"}
            assert model_facts(network, size)["macs"] >= expected
            assert images_per_second(network.prepared, image_size=size, batch_size=2, seconds=0.0) > 0
