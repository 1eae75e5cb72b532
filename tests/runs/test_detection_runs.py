"""A run of detection from a recipe, the whole way through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from helpers.displays import Eventful, press_ctrl_c
from helpers.engine import read_metrics, reproducible_files, run_recipe
from understudy import Recipe, UserError, load_student
from understudy.recipes.comparison import rows_of
from understudy.report import read_results
from understudy.report.table import comparison_table
from understudy.runs.checks import check_rows
from understudy.runs.components import open_components
from understudy.runs.evaluate import evaluate
from understudy.runs.folder import RunFolder
from understudy.utils.interrupted import Interrupted

FEW = {f"rpn_{when}_nms_top_n_{mode}": 16 for when in ("pre", "post") for mode in ("train", "test")}
SMALL = {
    "model": "fasterrcnn:resnet10t",
    "kwargs": {
        "width": 8,
        "head_width": 16,
        "anchor_sizes": [8, 16, 32, 64, 128],
        "backbone": {"channels": [8, 8, 16, 16], "stem_width": 8},
        "box_batch_size_per_image": 16,
        **FEW,
    },
    "weights": "none",
}


def recipe_of(**over: Any) -> Recipe:
    data = {"root": "boxes-of-shapes", "train_rows": "0:6", "val_rows": "100:104", "batch_size": 3, "workers": 0}
    settings = {
        "task": "detection",
        "data": {**data, **over.pop("data", {})},
        "teacher": {**SMALL, "allow_weak": True},
        "student": SMALL,
        "rows": ["alone", "dist"],
        "epochs": 2,
        "threads": 1,
    }
    return Recipe.read({**settings, **over}, what="the test's recipe")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_recipe(recipe_of(), tmp_path_factory.mktemp("runs") / "run")


def test_results_and_page_are_in_the_metrics_of_boxes(run: RunFolder) -> None:
    results = read_results(run.path)
    assert (results.task, results.metric.title, results.data.classes) == (
        "detection",
        "AP",
        ("disc", "square", "triangle"),
    )
    assert all({"ap", "ap50", "ap75", "ar100"} <= set(row.summary.scores) for row in results.rows)
    assert results.teacher is not None
    assert results.teacher.val is not None
    terms = {key for line in read_metrics(run) if line["kind"] == "train" for key in line["terms"]}
    assert terms == {"dist.inter", "dist.intra"}
    page = (run.path / "report.html").read_text()
    assert "top-1" not in page
    table = comparison_table(results)
    assert [column.key for column in table.columns][:4] == ["row", "ap", "ap50", "ap75"]
    assert [line.cells[2].value for line in table.lines] == [
        results.teacher.val.scores["ap50"],
        *[row.summary.scores["ap50"].mean for row in results.rows],
    ]
    kept = load_file(run.predictions_file)
    assert kept["matches.num_images/val/dist/0"] == 4


def test_evaluate_gives_the_score_that_the_run_wrote(run: RunFolder) -> None:
    results = read_results(run.path)
    assert results.deployed is not None
    written = results.row(results.deployed.row).seeds[0].selected.scores
    found = evaluate(run, split="val", data=None, allow_code=False)
    assert found.scores.scores == pytest.approx(written, rel=1e-3)
    assert "(4 images)   AP " in found.text


def test_the_students_folder_is_read_and_finds_boxes(run: RunFolder) -> None:
    student = load_student(run.path)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = student(images)
        (found,) = maps.detector.detections(maps, images, torch.tensor([[64, 96]]))
    assert list(maps) == ["p2", "p3", "p4", "p5", "p6"]
    assert found.boxes.shape[1] == 4
    assert student.classes == ("disc", "square", "triangle")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student": {"model": "timm:resnet10t", "weights": "none"}}, "student timm:resnet10t is no detector"),
        ({"data": {"root": "digits"}}, "task: detection learns from boxes, and digits has none"),
        ({"data": {"root": "shapes"}}, "task: detection learns from boxes, and shapes has none"),
        ({"task": "segmentation"}, "task: segmentation learns from masks, and boxes-of-shapes has boxes"),
        ({"label_smoothing": 0.1}, "know neither label_smoothing nor class_weights"),
        (
            {"teacher": {**SMALL, "weights": "pretrained", "classes": [0, 1, 2]}},
            "a detector that teaches has the data's own classes",
        ),
        ({"rows": ["alone", "crd"]}, "compares whole images"),
    ],
)
def test_what_does_not_go_with_boxes_is_refused(settings: dict[str, Any], message: str) -> None:
    recipe = recipe_of(**settings)
    with pytest.raises(UserError, match=message):
        check_rows(open_components(recipe, allow_code=False, say=print), rows_of(recipe))


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_the_same_bit_for_bit(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_recipe(recipe_of(), tmp_path / "run", display=Eventful(1, 3, press_ctrl_c))
    again = run_recipe(recipe_of(), tmp_path / "run")
    expected, found = reproducible_files(run), reproducible_files(again)
    assert {name for name in expected if expected[name] != found.get(name)} <= {"results.json"}  # its run's name
