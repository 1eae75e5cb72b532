"""A run of YOLOs of the package ultralytics, the whole way through, on a stand-in with its interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers import yolo_package
from helpers.command_line import refused
from helpers.displays import Eventful, Heard, press_ctrl_c
from helpers.engine import reproducible_files, run_recipe
from understudy import Recipe, UserError
from understudy.cli.commands import deployment_commands
from understudy.cli.options import RecipeOptions
from understudy.cli.overrides import has_typed_all_code
from understudy.models.export import FORMATS
from understudy.report import read_results
from understudy.report.licences import licence_notes
from understudy.runs.evaluate import evaluate
from understudy.runs.export import Wanted
from understudy.runs.export import export as export_run
from understudy.runs.folder import RunFolder
from understudy.runs.predict import predictions
from understudy.utils.interrupted import Interrupted

LICENCE = "run by the package ultralytics, which is under the AGPL-3.0"


def recipe_of(**over: Any) -> Recipe:
    settings = {
        "task": "detection",
        "data": {
            "root": "boxes-of-shapes",
            "train_rows": "0:6",
            "val_rows": "100:104",
            "batch_size": 3,
            "workers": 0,
        },
        "teacher": {"model": "ultralytics:yolov5m", "weights": "none", "allow_weak": True},
        "student": {"model": "ultralytics:yolov5s", "weights": "none"},
        "method": {"name": "dist", "on": {"p3": 1, "p4": 1, "p5": 1}},
        "epochs": 2,
        "threads": 1,
    }
    return Recipe.read({**settings, **over}, what="the test's recipe")


@pytest.fixture(scope="module", autouse=True)
def stand_in() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        yolo_package.installed(patch)
        yield


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, heard: Heard) -> RunFolder:
    return run_recipe(recipe_of(), tmp_path_factory.mktemp("runs") / "run", display=heard)


def test_the_licence_is_said_once_in_the_output_on_the_page_and_in_the_card(run: RunFolder, heard: Heard) -> None:
    said = [line for line in heard.said if "AGPL" in line]
    assert len(said) == 1
    assert said[0].startswith(f"licence  ultralytics:yolov5m and ultralytics:yolov5s are {LICENCE}")
    assert run.report_file.read_text(encoding="utf-8").count(f"are {LICENCE}") == 1
    card = (run.path / "student" / "README.md").read_text(encoding="utf-8")
    assert card.count("## Licence\n") == card.count(LICENCE) == 1
    assert "\nlicense:" not in card  # of what was trained, it is nobody's to guess


def test_networks_of_other_packages_have_nothing_said_of_them() -> None:
    assert not licence_notes(["timm:resnet18", "hf:PekingU/rtdetr_r18vd", "ResNet"])
    assert licence_notes(["ultralytics:a", "ultralytics:a", "timm:b"])[0].startswith(f"ultralytics:a is {LICENCE}")


def test_scores_and_boxes_come_out_of_the_folder_again(run: RunFolder) -> None:
    results = read_results(run.path)
    row = results.row("dist")
    assert row is not None
    assert row.seeds[0].last.scores["ap"] >= 0
    assert "AP" in evaluate(run, split="val", data=None, allow_code=False, say=print).text
    (found,) = predictions(run.path, [Image.new("RGB", (90, 50), "red")], topk=3, say=print)
    assert len(found.student) == 3
    assert all(answer.box and answer.box[2] <= 90 and answer.box[3] <= 50 for answer in found.student)


def test_files_to_deploy_are_left_to_the_package(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exported by that package, under its licence"):
        export_run(run, [Wanted(FORMATS["onnx"](), tmp_path / "student.onnx")], allow_code=False, say=print)
    assert not list(tmp_path.iterdir())
    assert "export" not in deployment_commands(run)
    assert "understudy export" not in run.report_file.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_the_same_bit_for_bit(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_recipe(recipe_of(), tmp_path / "run", display=Eventful(1, 3, press_ctrl_c))
    again = run_recipe(recipe_of(), tmp_path / "run")
    expected, found = reproducible_files(run), reproducible_files(again)
    assert {name for name in expected if expected[name] != found.get(name)} <= {"results.json"}  # its run's name


@pytest.mark.slow
def test_a_row_of_a_comparison_equals_the_row_alone_bit_for_bit(run: RunFolder, tmp_path: Path) -> None:
    on_levels = {"name": "dist", "method": {"name": "dist", "on": {"p3": 1, "p4": 1, "p5": 1}}}
    fitnet = {"name": "fitnet", "student_stages": [0, 1, 2], "teacher_stages": [0, 1, 2]}
    several = run_recipe(recipe_of(rows=["alone", on_levels, {"name": "fitnet", "method": fitnet}]), tmp_path / "run")
    alone, beside = (folder.students / "dist" / "seed0" / "model.safetensors" for folder in (run, several))
    assert alone.read_bytes() == beside.read_bytes()


def test_a_teacher_that_found_nothing_is_refused(tmp_path: Path) -> None:
    untaught = {"model": "ultralytics:yolov5m", "weights": "none"}
    with pytest.raises(UserError, match=r"ultralytics:yolov5m reaches AP .*it has found next to nothing"):
        run_recipe(recipe_of(teacher=untaught), tmp_path / "run")


def test_a_pickle_of_a_recipe_is_refused_unless_it_was_typed() -> None:
    recipe = recipe_of(teacher={"model": "ultralytics:best.pt"})
    assert not has_typed_all_code(recipe, RecipeOptions(), [])
    assert has_typed_all_code(recipe, RecipeOptions(teacher="ultralytics:best.pt"), [])
    assert has_typed_all_code(recipe_of(), RecipeOptions(), [])


def test_without_the_package_the_command_line_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    yolo_package.absent(monkeypatch)
    said = refused(
        "train", "--data", "boxes-of-shapes", "--student", "ultralytics:yolov5s", "--method", "alone", "--epochs", 1
    )
    assert "whether to `pip install ultralytics`" in said
