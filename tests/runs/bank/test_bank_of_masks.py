"""A bank of a segmenter: its maps of logits, of every window, and a run that cannot tell it from the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.banked import files_of, furthest, losses_of, make, with_bank
from helpers.displays import Eventful, press_ctrl_c
from helpers.engine import read_metrics, reproducible_files, run_recipe
from helpers.masks import masks_folder
from understudy import Recipe, UserError
from understudy.core.batch import Batch
from understudy.teachers.bank.map_rows import MapRows
from understudy.teachers.bank.teacher import BankTeacher
from understudy.utils.interrupted import Interrupted

SMALL = {"model": "deeplabv3:mobilenetv3_small_050", "kwargs": {"width": 8}, "weights": "none"}
EVERY_FORM = [  # positions as rows, of both heads; a map of logits; a row an image
    {"name": "dist", "weight": 1, "on": {"main": 1, "aux": 0.4}},
    {"name": "cwd", "student_stages": ["output.logits"], "teacher_stages": ["output.logits"], "weight": 1},
]


def recipe_of(root: Path, **over: Any) -> Recipe:
    settings = {
        "data": {"root": str(root), "batch_size": 3, "image_size": 32, "workers": 0},
        "teacher": {**SMALL, "allow_weak": True},
        "student": SMALL,
        "method": EVERY_FORM,
        "epochs": 2,
        "threads": 1,
    }
    return Recipe.read({**settings, **over}, what="the test's recipe")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return masks_folder(tmp_path_factory.mktemp("masks"))


@pytest.fixture(scope="module")
def bank(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    make(recipe_of(data), folder)
    return folder


def test_gradients_and_losses_are_the_live_teachers(data: Path, bank: Path) -> None:
    recipe = recipe_of(data)
    live_gradients, live = losses_of(recipe, 4)
    gradients, banked = losses_of(with_bank(recipe, bank), 4)
    assert furthest(gradients, live_gradients) <= 1e-6
    assert banked == live


@pytest.mark.slow
def test_a_run_writes_the_same_metrics_and_goes_on_where_it_was_stopped(data: Path, bank: Path, tmp_path: Path) -> None:
    live = run_recipe(recipe_of(data), tmp_path / "live")
    banked = run_recipe(with_bank(recipe_of(data), bank), tmp_path / "banked")
    assert read_metrics(banked) == read_metrics(live)
    with pytest.raises(Interrupted):
        run_recipe(with_bank(recipe_of(data), bank), tmp_path / "again", display=Eventful(1, 3, press_ctrl_c))
    again = run_recipe(with_bank(recipe_of(data), bank), tmp_path / "again")
    expected, found = reproducible_files(banked), reproducible_files(again)
    assert {name for name in expected if expected[name] != found.get(name)} <= {"results.json"}  # its run's name


def test_what_is_kept_and_its_size_are_said_and_a_lost_shard_is_made_again(data: Path, bank: Path) -> None:
    teacher = BankTeacher(bank / "seed0")
    assert teacher.manifest.layout.maps == {"logits": (4, 4, 4), "aux": (4, 4, 4)}
    assert teacher.manifest.layout.output.in_words() == "logits 4x4x4, aux 4x4x4"
    assert teacher.manifest.layout.output.image_bytes == 2 * 4 * 4 * 4 * 4
    before = files_of(bank)
    next(bank.rglob("*shard*")).unlink()
    make(recipe_of(data), bank)
    assert files_of(bank) == before


def test_maps_that_are_tapped_come_from_the_output(bank: Path) -> None:
    teacher = BankTeacher(bank / "seed0")
    teacher.tap(["output.aux"])
    seen = teacher.observe(Batch(torch.zeros(2, 3, 32, 32), None, indices=torch.tensor([3, 0])))
    assert torch.equal(seen.features["output.aux"], seen.output["aux"])
    assert teacher.shapes(torch.zeros(1)).outputs.keys() == {"logits", "aux"}
    with pytest.raises(UserError, match="does not hold 'head' of the teacher, only logits, aux"):
        teacher.tap(["head"])


def test_narrow_maps_are_near_and_their_kept_probabilities_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(2, 7, 3, 4, generator=generator)
    half = MapRows({"logits": (7, 3, 4)}, "float16")
    assert half.image_bytes == 7 * 12 * 2
    assert half.unpacked(half.packed(logits))["logits"].allclose(logits, atol=0.02)
    few = MapRows({"logits": (7, 3, 4)}, "float32", topk=2)
    packed = few.packed({"logits": logits})
    assert sum(one.nbytes for one in packed.values()) == 2 * few.image_bytes
    there, here = logits.softmax(dim=1), few.unpacked(packed)["logits"].softmax(dim=1)
    is_kept = torch.zeros_like(there).scatter_(1, logits.topk(2, dim=1).indices, 1).bool()
    assert here[is_kept].allclose(there[is_kept], rtol=1e-5)
    assert here.sum(dim=1).allclose(torch.ones(2, 3, 4))
    with pytest.raises(UserError, match="7x4x4 as 'logits' of some images and 7x3x4 of others"):
        half.packed(torch.zeros(1, 7, 4, 4))


@pytest.mark.parametrize(
    ("over", "text"),
    [
        ({"augment": {"name": "scale_crop", "scale": [0.7, 2.0]}}, "logits of one window cannot be cut or enlarged"),
        ({"shorter_side": 48}, "logits of one window cannot be cut or enlarged"),
        ({"image_size": 48}, "logits of one window cannot be cut or enlarged"),
    ],
)
def test_other_windows_are_refused_with_the_reason(data: Path, bank: Path, over: Any, text: str) -> None:
    recipe = recipe_of(data)
    with pytest.raises(UserError, match=text):
        losses_of(with_bank(recipe, bank, data={**recipe.as_dict()["data"], **over}), 1)


def test_other_evaluation_of_the_teacher_is_refused_and_other_rows_are_not(data: Path, bank: Path) -> None:
    recipe = recipe_of(data)
    losses_of(with_bank(recipe, bank, segmentation={"rows": "valid", "aux_weight": 0}), 1)
    with pytest.raises(UserError, match=r"images.evaluation.absent +here 'zero', there 'left_out'"):
        losses_of(with_bank(recipe, bank, segmentation={"absent": "zero"}), 1)


def test_feature_maps_are_refused_with_the_size_that_they_would_take(data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(data, method={"name": "at", "student_stages": ["head"], "teacher_stages": ["head"]})
    with pytest.raises(UserError, match=r"read feature maps of the teacher \(head 8x4x4\), which make the bank"):
        make(recipe, tmp_path)
    make(recipe, tmp_path, views=1, feature_maps=True)
    assert losses_of(with_bank(recipe, tmp_path), 2)[1] == losses_of(recipe, 2)[1]
