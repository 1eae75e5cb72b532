"""Masks and tokens on a GPU that is not there (pretended_cuda): everything that a run computes lies on one device.

Not detectors: how many boxes they say something of depends on values, which there are none of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from helpers.engine import tiny_recipe
from helpers.masks import masks_folder
from helpers.pretended_cuda import CUDA, devices_of, pretended_cuda
from understudy import Recipe
from understudy.core.precision import upcast_all
from understudy.distributed.world import RankCounts
from understudy.models.cost import count_macs, images_per_second, model_facts
from understudy.recipes.comparison import rows_of
from understudy.runs.build import build_trainer, deployed_network
from understudy.runs.component_changes import with_teacher
from understudy.runs.components import Components, open_components
from understudy.training.loss import PassShare, combine_losses
from understudy.training.metrics import record_of
from understudy.training.trainer import Trainer

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


def opened(recipe: Recipe) -> Components:
    return open_components(recipe, allow_code=False, say=lambda _: None)


def on_cuda(components: Components) -> Components:
    assert components.teacher_network is not None
    return with_teacher(replace(components, device=CUDA), components.teacher_network)


def trainer_of(components: Components) -> Trainer:
    return build_trainer(components, rows_of(components.recipe), 0)


@pytest.fixture(params=[of_masks, of_tokens], ids=["masks", "tokens"])
def components(request: pytest.FixtureRequest, tmp_path: Path) -> Components:
    make: Callable[[Path], Recipe] = request.param
    return opened(make(tmp_path))


def test_losses_lie_on_the_device(components: Components) -> None:
    with pretended_cuda():
        components = on_cuda(components)
        trainer = trainer_of(components)
        batch = next(iter(components.train_loader(0).epoch(1)))
        assert {batch.images.device, batch.targets.device} == {CUDA}
        assert trainer.teacher is not None
        observation = trainer.teacher.observe(batch)
        for student in trainer.students:
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
            tensors = [one for one in (losses.task, losses.distill, *losses.terms.values()) if one is not None]
            assert devices_of(tensors) == {"cuda"}, student.name
            shown = pairings["main"]
            trainer.measures.add(student.name, record_of(whole, shown, student.task.batch_measures(shown)))


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
