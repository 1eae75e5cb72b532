"""A run of segmentation from a folder of masks, the whole way through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import understudy as us
from helpers.displays import Eventful, press_ctrl_c
from helpers.engine import read_metrics, reproducible_files, run_recipe
from helpers.masks import masks_folder, save_mask
from understudy import Recipe, UserError, load_student
from understudy.cli.commands import deployment_commands
from understudy.models.export import FORMATS
from understudy.report import read_results
from understudy.runs.analyses.run import AnalyzeOptions, analyze
from understudy.runs.console import Display
from understudy.runs.data_task import open_data_of, task_of, with_task_of
from understudy.runs.evaluate import evaluate
from understudy.runs.export import Wanted, export
from understudy.runs.folder import RunFolder
from understudy.runs.predict import predictions
from understudy.tasks.class_weights import balanced_by_pixels
from understudy.tasks.segmentation import Segmentation
from understudy.utils.interrupted import Interrupted

SMALL = {"model": "deeplabv3:mobilenetv3_small_050", "kwargs": {"width": 8}, "weights": "none"}


def recipe_of(root: Path, **over: Any) -> Recipe:
    return Recipe.read(
        {
            "data": {"root": str(root), "batch_size": 3, "image_size": 32, "workers": 0},
            "teacher": {**SMALL, "allow_weak": True},
            "student": SMALL,
            "rows": [
                "alone",
                {"name": "dist", "method": {"name": "dist", "on": {"main": 1, "aux": 0.4}}},
            ],
            "epochs": 2,
            "threads": 1,
            **over,
        },
        what="the test's recipe",
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return masks_folder(tmp_path_factory.mktemp("masks"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_recipe(recipe_of(data), tmp_path_factory.mktemp("runs") / "run")


def test_results_are_in_the_metrics_of_masks(run: RunFolder) -> None:
    results = read_results(run.path)
    assert (results.task, results.metric.title, results.data.num_classes) == ("segmentation", "mIoU", 4)
    assert [set(row.summary.scores) for row in results.rows] == [{"miou", "pixel_accuracy", "loss"}] * 2
    assert {(one.row, one.against) for one in results.comparisons} == {("dist", "alone")}
    assert {line["kind"]: set(line) & {"pixel_accuracy", "top1"} for line in read_metrics(run)} == {
        "train": {"pixel_accuracy"},
        "epoch": set(),
    }
    terms = {key for line in read_metrics(run) if line["kind"] == "train" for key in line["terms"] if "dist." in key}
    assert terms == {"dist.inter", "dist.intra", "dist.aux.inter", "dist.aux.intra"}


def test_the_page_shows_iou_by_class_and_images_with_their_masks(run: RunFolder) -> None:
    page = (run.path / "report.html").read_text()
    assert "IMAGES... --masks MASKS" in page
    assert deployment_commands(run).splitlines()[0].endswith("IMAGES... --masks MASKS")
    assert 'id="ious"' in page
    assert 'id="masks"' in page
    assert "top-1" not in page
    assert "disagree most" not in page
    kept = load_file(run.predictions_file)
    assert kept["counts/val/alone/0"].shape == (4, 4, 3)
    assert kept["examples/row/dist/0"].shape == kept["examples/truth/0"].shape == (32, 32)


def test_evaluate_gives_the_score_that_the_run_wrote(run: RunFolder, data: Path) -> None:
    results = read_results(run.path)
    assert results.deployed is not None
    written = results.row(results.deployed.row).seeds[0].selected.scores
    found = evaluate(run, split="val", data=None, allow_code=False)
    assert found.scores.scores == pytest.approx(written, rel=1e-5)
    assert "(4 images)   mIoU" in found.text


def test_other_masks_are_scored_under_the_students_class_numbers(run: RunFolder, tmp_path: Path) -> None:
    masks_folder(tmp_path)
    whole = evaluate(run, split="val", data=str(tmp_path), allow_code=False)
    (tmp_path / "classes.txt").write_text("triangle\nsquare\ndisc\nbackground\n")
    for file in (tmp_path / "masks").rglob("*.png"):
        values = np.asarray(Image.open(file))
        save_mask(file, np.where(values == 255, 255, 3 - values))
    turned = evaluate(run, split="val", data=str(tmp_path), allow_code=False)
    assert turned.scores.scores == whole.scores.scores


def test_predict_says_shares_of_pixels_and_gives_masks_of_the_pictures_own_size(run: RunFolder, data: Path) -> None:
    pictures = [Image.fromarray(np.zeros((20, 44, 3), dtype=np.uint8)), data / "images/val"]
    first, *others = predictions(run.path, pictures, teacher=True, say=print)
    assert (len(others), first.mask.shape, first.teacher_mask.shape) == (4, (20, 44), (20, 44))
    shares = {answer.name: answer.probability for answer in first.student}
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) <= {"background", "disc", "square", "triangle"}


def test_the_students_folder_is_read_and_takes_images_of_any_size(run: RunFolder) -> None:
    student = load_student(run.path)
    with torch.no_grad():
        assert student(torch.zeros(1, 3, 40, 56))["logits"].shape == (1, 4, 5, 7)
    assert student.classes == ("background", "disc", "square", "triangle")


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_the_same_bit_for_bit(run: RunFolder, data: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_recipe(recipe_of(data), tmp_path / "run", display=Eventful(1, 3, press_ctrl_c))
    again = run_recipe(recipe_of(data), tmp_path / "run")
    expected, found = reproducible_files(run), reproducible_files(again)
    assert {name for name in expected if expected[name] != found.get(name)} <= {"results.json"}  # its run's name


def test_analyze_counts_the_pixels_that_have_the_teachers_class(run: RunFolder) -> None:
    pages = analyze([run], AnalyzeOptions(), allow_code=False, display=Display(quiet=True))
    (other,) = us.analyze(run.path, what=["fidelity"]).values()
    assert other["problem"] == "is of runs of classification, and this is one of segmentation"
    found = json.loads((run.path / "analysis/pixels.json").read_text())
    assert (set(found["pieces"]), found["identity"]["num_images"]) == ({"alone", "dist"}, 4)
    kept = load_file(run.predictions_file)
    for row, piece in found["pieces"].items():
        right = kept[f"counts/val/{row}/0"][..., 0].sum()
        labelled = kept[f"counts/val/{row}/0"][..., 2].sum()
        wrong, is_right = piece["num_wrong"], labelled - piece["num_wrong"]
        assert piece["num_pixels"] == labelled
        by_parts = piece["agreement_where_right"] * is_right + piece["right_where_wrong"] * wrong
        assert by_parts / 100 == pytest.approx(right)  # right together, and right alone
        assert len(piece["iou_with_teacher"]) == 4
    page = pages[0].read_text()
    assert 'id="pixels"' in page
    assert "Fidelity to the teacher" not in page


def test_balanced_weights_are_by_the_pixels_of_training_masks(data: Path) -> None:
    recipe = recipe_of(data, class_weights="balanced")
    opened = open_data_of(recipe)
    task = task_of(with_task_of(recipe, opened), opened)
    values = np.concatenate([np.asarray(Image.open(file)).ravel() for file in (data / "masks/train").glob("*.png")])
    counts = np.bincount(values, minlength=256)[:4]
    assert isinstance(task, Segmentation)
    assert task.class_weights is not None
    assert task.class_weights.numpy() == pytest.approx(counts.sum() / (4 * counts), rel=1e-6)
    assert balanced_by_pixels(torch.tensor([6, 0, 2])).tolist() == pytest.approx([8 / 12, 0, 2])


@pytest.mark.slow
def test_a_pt2_file_takes_images_of_any_size_and_is_scored_on_whole_ones(tmp_path: Path) -> None:
    data = masks_folder(tmp_path / "data", side=72)
    kwargs = {"channels": [4, 4, 8, 8], "stem_width": 4, "width": 8}
    small = {"model": "fpn:resnet10t", "kwargs": kwargs, "weights": "none"}
    recipe = recipe_of(data, student=small, teacher=None, rows=[], method="none", epochs=1)
    run = run_recipe(recipe.with_data(image_size=40), tmp_path / "run")
    wanted = [Wanted(FORMATS["pt2"](), tmp_path / "a.pt2"), Wanted(FORMATS["torchscript"](), tmp_path / "a.pt")]
    report = export(run, wanted, allow_code=False, say=print)
    assert report.scored_on == "val (4 images)"
    assert len({row.score for row in report.rows}) == 1


@pytest.mark.parametrize(
    ("over", "text"),
    [
        ({"student": {"model": "cifar:resnet8", "weights": "none"}}, r"must return \(B,C,H,W\) logits.*deeplabv3:NAME"),
        ({"rows": ["crd"]}, "method 'crd' compares whole images"),
        ({"bank": {"path": "nowhere"}}, "bank"),
        (
            {"data": {"root": "digits", "val_rows": "0:8"}, "task": "segmentation"},
            "task: segmentation learns from masks",
        ),
        (
            {"teacher": {**SMALL, "weights": "pretrained", "classes": [0, 1, 2, 3]}},
            "teacher.classes: is of classifiers",
        ),
        ({"class_weights": [1, 2]}, "class_weights: one for each of the 4 classes"),
    ],
)
def test_what_does_not_go_with_masks_is_refused_in_words(data: Path, tmp_path: Path, over: Any, text: str) -> None:
    with pytest.raises(UserError, match=text):
        run_recipe(recipe_of(data, **over), tmp_path / "run")
