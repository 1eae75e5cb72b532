"""Networks, data and tasks that do not go together, batches of one image: what a person is told before training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from helpers.masks import masks_folder
from understudy import Recipe, UserError
from understudy.cli.options import RecipeOptions
from understudy.cli.overrides import resolve_recipe
from understudy.data import DataConfig
from understudy.models import create_model, save_student
from understudy.recipes.comparison import rows_of
from understudy.runs.build import build_trainer
from understudy.runs.checks import check_rows
from understudy.runs.components import open_components
from understudy.runs.data_task import open_data_of, refuse_other_task, refuse_root_of_other_task
from understudy.training.build import BuildContext

SEGMENTER = {"model": "fpn:mobilenetv3_small_050", "kwargs": {"width": 8}, "weights": "none"}
_BACKBONE = {"backbone": {"channels": [8, 8, 16, 16], "stem_width": 8}}
DETECTOR = {
    "model": "fasterrcnn:resnet10t",
    "kwargs": {"width": 8, "head_width": 16, **_BACKBONE},
    "weights": "none",
}


def recipe_of(data: dict[str, Any], network: dict[str, Any], **over: Any) -> Recipe:
    teacher = {**network, "allow_weak": True}
    return Recipe.read({"data": data, "teacher": teacher, "student": network, **over}, what="the test's recipe")


def checked(recipe: Recipe) -> BuildContext:
    components = open_components(recipe, allow_code=False, say=lambda note: None)
    check_rows(components, rows_of(components.recipe))
    return components.build_context(0)


@pytest.mark.parametrize(("root", "network"), [("shapes", SEGMENTER), ("boxes-of-shapes", DETECTOR)])
def test_a_last_batch_of_one_image_has_rows_enough_for_methods_on_logits(root: str, network: dict[str, Any]) -> None:
    data = {"root": root, "train_rows": "0:5", "val_rows": "100:104", "batch_size": 4, "workers": 0}
    checked(recipe_of(data, network, method="dist"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"root": "shapes", "val_rows": "0:4"},
            "fasterrcnn:resnet10t is a detector, and shapes has masks; take deeplab",
        ),
        ({"root": "digits", "val_rows": "0:4"}, "is a detector, and digits has one class an image; take timm:NAME"),
    ],
)
def test_a_detector_on_data_without_boxes_is_refused_by_name(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked(recipe_of({**data, "workers": 0}, DETECTOR, method="kd"))


@pytest.mark.parametrize(
    ("task", "root", "message"),
    [
        ("detection", "shapes", "shapes has masks, and this student tells classes of boxes; give data with boxes"),
        ("classification", "shapes", "classes of whole images; give data with one class an image"),
        ("segmentation", "boxes-of-shapes", "boxes-of-shapes has boxes, and this student tells classes of pixels"),
        ("segmentation", "digits", "digits has one class an image"),
    ],
)
def test_a_student_is_not_measured_on_data_of_another_task(task: str, root: str, message: str) -> None:
    own = Recipe.read({"data": {"root": root}, "student": {"model": "x"}, "method": "none", "task": task}, what="own")
    data = open_data_of(own.model_copy(update={"task": "classification"}))
    with pytest.raises(UserError, match=message):
        refuse_other_task(own, data)


def test_a_folder_of_another_task_is_refused_before_it_is_opened() -> None:
    own = {"student": {"model": "x"}, "method": "none", "task": "segmentation", "data": {"root": "boxes-of-shapes"}}
    with pytest.raises(UserError, match="boxes-of-shapes has boxes, and this student tells classes of pixels"):
        refuse_root_of_other_task(Recipe.read(own, what="own"))
    refuse_root_of_other_task(Recipe.read({**own, "data": {"root": "shapes"}}, what="own"))


ONE_STAGE = {**DETECTOR, "model": "retinanet:resnet10t", "kwargs": {"width": 8, **_BACKBONE}}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("fitnet", "stages.2 of the student (2 x 2 positions) and stages.2 of the teacher (4 x 4) are levels of other"),
        ({"name": "at", "student_stages": [1]}, "stages.1 of the student (4 x 4 positions) and stages.1 of the"),
    ],
)
def test_levels_of_other_strides_are_refused_with_the_settings_that_pair_them(method: Any, message: str) -> None:
    data = {"root": "boxes-of-shapes", "train_rows": "0:4", "val_rows": "100:102", "batch_size": 4, "workers": 0}
    recipe = recipe_of(data, ONE_STAGE, method=method).model_copy(update={"task": "detection"})
    teacher = recipe_of(data, DETECTOR, method=method).teacher
    recipe = recipe.model_copy(update={"teacher": teacher})
    components = open_components(recipe, allow_code=False, say=lambda note: None)
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        build_trainer(components, rows_of(recipe), 0)
    assert "set method.student_stages=[0, 1, 2] method.teacher_stages=[1, 2, 3]" in str(refused.value)
    named = {"name": "fitnet", "student_stages": [0, 1, 2], "teacher_stages": [1, 2, 3]}
    paired = recipe_of(data, ONE_STAGE, method=named).model_copy(update={"teacher": teacher})
    assert len(build_trainer(components, rows_of(paired), 0).students) == 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("fasterrcn:resnet10t", "did you mean fasterrcnn:?. Named models are timm:NAME"),
        ("ultralitics:yolov8n", "did you mean ultralytics:?. Named models are timm:NAME"),
    ],
)
def test_a_misspelt_family_of_detectors_is_named(model: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        create_model(model, num_classes=2, weights="none")


def test_masks_are_no_classification_where_a_person_asks_for_it(tmp_path: Path) -> None:
    root = str(masks_folder(tmp_path, train=1, val=1))
    typed = {"data": root, "student": "timm:resnet18", "teacher": "timm:resnet34"}
    with pytest.raises(UserError, match=r"--task classification: .* has masks; leave --task out"):
        resolve_recipe(RecipeOptions(task="classification", **typed))
    assert resolve_recipe(RecipeOptions(task="classification", **{**typed, "data": "digits"}))[0].data == DataConfig(
        root="digits"
    )


def test_the_projector_is_told_which_settings_make_it_compare_maps() -> None:
    data = {"root": "shapes", "train_rows": "0:4", "val_rows": "100:102", "workers": 0}
    with pytest.raises(UserError, match=r"set method\.student_tap and method\.teacher_tap to maps"):
        checked(recipe_of(data, SEGMENTER, method="projector"))
    maps = {"name": "projector", "student_tap": "head", "teacher_tap": "head", "kl_weight": 0}
    checked(recipe_of(data, SEGMENTER, method=maps))


def test_a_teacher_that_has_the_classes_in_another_order_is_refused(tmp_path: Path) -> None:
    data = {"root": "shapes", "train_rows": "0:4", "val_rows": "100:102", "workers": 0}
    network = create_model(SEGMENTER["model"], num_classes=4, weights="none", kwargs=SEGMENTER["kwargs"])
    names = ("background", "disc", "square", "triangle")
    for folder, order in (("same", names), ("other", names[::-1])):
        save_student(tmp_path / folder, network, label_names=order, image_size=64)
    same, other = ({**SEGMENTER, "weights": str(tmp_path / folder)} for folder in ("same", "other"))
    checked(recipe_of(data, SEGMENTER, method="kd").model_copy(update={"teacher": recipe_of(data, same).teacher}))
    wrong = recipe_of(data, SEGMENTER, method="kd").model_copy(update={"teacher": recipe_of(data, other).teacher})
    with pytest.raises(UserError, match=r"in another order \(triangle, square, disc, background; here background"):
        checked(wrong)
