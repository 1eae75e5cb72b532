"""CIRKD's memories of pixels and regions: what they hold, what they are worth, and that a run has them back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.displays import Eventful, press_ctrl_c
from helpers.engine import reproducible_files, run_recipe
from helpers.examples_features import batch_of, method_of
from helpers.masks import masks_folder
from understudy import Recipe, UserError
from understudy.core.batch import Pairing
from understudy.methods import CIRKD
from understudy.methods.losses.segmentation import cirkd_memory_loss
from understudy.methods.shared.class_memory import ClassMemory, region_means, sampled_positions
from understudy.utils.interrupted import Interrupted

SMALL = {"pixel_weight": 0.1, "region_weight": 0.2, "pixel_memory": 16, "region_memory": 4}
LAST = {"student_stages": ["stages.3"], "teacher_stages": ["stages.3"]}


def labelled(labels: Tensor) -> tuple[CIRKD, Pairing]:
    """The method with small memories on maps of 2 x 2, and a batch of five images."""
    method = method_of("cirkd", **SMALL, **LAST)
    assert isinstance(method, CIRKD)
    batch = batch_of(method.context)
    batch.maps["labels"] = labels  # type: ignore[index]
    return method, batch


def test_the_loss_equals_its_formula() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 2, 3, dtype=torch.float64), torch.randn(2, 4, 2, 3, dtype=torch.float64)
    contrast = F.normalize(torch.randn(5, 4, dtype=torch.float64), dim=1)
    total = torch.zeros((), dtype=torch.float64)
    for image in range(2):
        for row in range(2):
            for column in range(3):
                ours, theirs = (
                    (contrast @ side[image, :, row, column] / side[image, :, row, column].norm() / 0.2).softmax(0)
                    for side in (student, teacher)
                )
                total += (theirs * (theirs / ours).log()).sum()
    found = cirkd_memory_loss(student, teacher, contrast, temperature=0.2)
    torch.testing.assert_close(found, total / 12)
    with pytest.raises(UserError):
        cirkd_memory_loss(student[:, :3], teacher, contrast)


def test_the_memory_of_a_class_holds_its_own_pixels() -> None:
    labels = torch.tensor([[[0, 0], [3, 3]], [[3, 0], [-1, 3]], *[[[-1, -1], [-1, -1]]] * 3])
    method, batch = labelled(labels)
    method(batch)
    teacher = F.normalize(batch.teacher_features["stages.3"], dim=1)
    memory = method.memories["pixel"]
    assert memory.place.tolist() == [3, 0, 0, 4, 0]
    for number in (0, 3):
        own = {tuple(row.tolist()) for row in teacher.movedim(1, -1)[labels == number]}
        kept = memory.queue[number, : memory.place[number]]
        assert len(own) == len(kept)
        assert all(any(torch.allclose(row, torch.tensor(one)) for one in own) for row in kept)
    regions = method.memories["region"]
    assert regions.place.tolist() == [2, 0, 0, 2, 0]
    expected = F.normalize(teacher[1, :, 0, 0] + teacher[1, :, 1, 1], dim=0)
    torch.testing.assert_close(regions.queue[3, 1], expected)


def test_terms_have_their_weights_and_gradients_and_nothing_moves_in_evaluation() -> None:
    method, batch = labelled(torch.zeros(5, 2, 2, dtype=torch.int64))
    method.eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    torch.manual_seed(3)
    terms = method(batch)
    assert set(terms) == {"minibatch", "pixel", "region"}
    torch.manual_seed(3)
    contrast = method.memories["pixel"].drawn(method.config.pixel_contrast)
    adapted = method.project(batch.student_features["stages.3"])
    expected = cirkd_memory_loss(adapted, batch.teacher_features["stages.3"], contrast)
    torch.testing.assert_close(terms["pixel"], 0.1 * expected)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    method.train()
    sum(method(batch).values()).backward()
    assert batch.student_features["stages.3"].grad is not None
    assert batch.teacher_features["stages.3"].grad is None


def test_the_newest_push_out_the_oldest() -> None:
    memory = ClassMemory(2, 3, 2, generator=torch.Generator().manual_seed(0))
    for angle in (0.1, 0.2, 0.3, 0.4):
        one = torch.tensor([[[angle, 1.0], [0.0, 0.0]]])
        memory.remember_(one, torch.tensor([[True, False]]))
    kept = (memory.queue[0, :3, 0] / memory.queue[0, :3, 1]).tolist()
    assert kept == pytest.approx([0.4, 0.2, 0.3])
    assert memory.place.tolist() == [1, 0]
    memory.remember_(torch.rand(9, 2, 2), torch.ones(9, 2, dtype=torch.bool))  # more than there is room for
    assert memory.place.tolist() == [1, 0]
    assert memory.drawn(100).shape == (6, 2)
    assert memory.drawn(2).norm(dim=1).allclose(torch.ones(4))


def test_regions_and_positions_of_classes_that_are_not_there_are_none() -> None:
    features, labels = torch.rand(2, 3, 4), torch.tensor([[0, 0, 1, -1], [1, 1, 1, 9]])
    means, are_there = region_means(features, labels, num_classes=3)
    assert are_there.tolist() == [[True, True, False], [False, True, False]]
    torch.testing.assert_close(means[1, 1], features[1, :, :3].mean(dim=1))
    found, which = sampled_positions(features, labels, num_classes=3, most=2)
    assert which.view(2, 2, 3).sum(dim=1).tolist() == [[2, 1, 0], [0, 2, 0]]
    assert any(torch.equal(found[0, 1], features[0, :, place]) for place in range(4))


def test_what_memories_cannot_have_is_refused() -> None:
    with pytest.raises(UserError, match="memories are of the images of all processes"):
        CIRKD.Config.read({"pixel_weight": 0.1, "rows": "local"}, what="cirkd")
    two = {"student_stages": ["stages.2", "stages.3"], "teacher_stages": ["stages.2", "stages.3"]}
    with pytest.raises(UserError, match="keeps its memories of one map"):
        method_of("cirkd", pixel_weight=0.1, **two)


@pytest.mark.slow
def test_a_run_that_is_stopped_has_its_memories_back(tmp_path: Path) -> None:
    data = masks_folder(tmp_path / "data")
    small = {"model": "deeplabv3:mobilenetv3_small_050", "kwargs": {"width": 8}, "weights": "none"}
    recipe = Recipe.read(
        {
            "data": {"root": str(data), "batch_size": 3, "image_size": 32, "workers": 0},
            "teacher": {**small, "allow_weak": True},
            "student": small,
            "method": {"name": "cirkd", **SMALL, "student_stages": ["head"], "teacher_stages": ["head"]},
            "epochs": 2,
            "threads": 1,
        },
        what="the test's recipe",
    )
    whole = run_recipe(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run_recipe(recipe, tmp_path / "again", display=Eventful(1, 3, press_ctrl_c))
    again = run_recipe(recipe, tmp_path / "again")
    expected, found = reproducible_files(whole), reproducible_files(again)
    assert {name for name in expected if expected[name] != found.get(name)} <= {"results.json"}  # its run's name
