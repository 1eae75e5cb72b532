"""A run of detection from a recipe, the whole way through."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from helpers.detections import found, truth
from helpers.displays import Eventful, press_ctrl_c
from helpers.drawn_shapes import small_detector
from helpers.engine import read_metrics, reproducible_files, run_recipe
from helpers.small_detector import small_faster_rcnn
from understudy import Recipe, UserError, load_student
from understudy.cli.commands import deployment_commands
from understudy.cli.drawn_boxes import write_boxes
from understudy.cli.predictions import written_as
from understudy.cli.written_pictures import PictureFolder
from understudy.core.boxes import Boxes
from understudy.data import DataConfig
from understudy.models.export import FORMATS
from understudy.recipes.comparison import rows_of
from understudy.report import read_results, read_run, row_sentence, write_report
from understudy.report.boxes import box_examples
from understudy.report.model_card import model_card
from understudy.report.several import joint_table, joint_verdict, read_runs
from understudy.report.table import comparison_table
from understudy.results.matches import match_list
from understudy.runs.analyses.run import AnalyzeOptions, analyze
from understudy.runs.checks import check_rows
from understudy.runs.components import open_components
from understudy.runs.console import Display
from understudy.runs.data_task import open_data_of
from understudy.runs.evaluate import evaluate
from understudy.runs.example_boxes import most_lost
from understudy.runs.export import BoxForm, Wanted
from understudy.runs.export import export as export_run
from understudy.runs.finders import finder_of
from understudy.runs.folder import RunFolder
from understudy.runs.predict import Answer, Prediction, predictions
from understudy.runs.push import push_student
from understudy.tasks.box_matches import matched
from understudy.utils.interrupted import Interrupted

SMALL = small_faster_rcnn()


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
    assert "IMAGES... --boxes PICTURES" in page
    assert deployment_commands(run).splitlines()[0].endswith("IMAGES... --boxes PICTURES")
    assert "top-1" not in page
    table = comparison_table(results)
    assert [column.key for column in table.columns][:4] == ["row", "ap", "ap50", "ap75"]
    assert [line.cells[2].value for line in table.lines] == [
        results.teacher.val.scores["ap50"],
        *[row.summary.scores["ap50"].mean for row in results.rows],
    ]
    kept = load_file(run.predictions_file)
    assert kept["matches.num_images/val/dist/0"] == 4


def test_rows_are_held_against_each_other_with_intervals_of_ap_and_ap50(run: RunFolder) -> None:
    results = read_results(run.path)
    (found,) = results.comparisons
    rows = {row.name: row.summary.scores for row in results.rows}
    assert found.difference == pytest.approx(rows["dist"]["ap"].mean - rows["alone"]["ap"].mean, abs=1e-3)
    assert found.beside["ap50"].difference == pytest.approx(
        rows["dist"]["ap50"].mean - rows["alone"]["ap50"].mean, abs=1e-3
    )
    assert found.low <= found.difference <= found.high
    assert (found.num_images, found.num_seeds) == (4, 1)
    assert "; AP50 " in row_sentence(results, results.row("dist"))


def test_several_runs_of_detectors_are_held_against_each_other(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "other")
    columns = [column.key for column in joint_table(read_runs([run.path, tmp_path / "other"])).columns]
    assert columns[:6] == ["run", "row", "ap", "ap50", "ap75", "lead"]
    said = joint_verdict(read_runs([run.path, tmp_path / "other"]))
    assert "0.0 points apart (95 % interval 0.0 to 0.0)" in said
    kept = load_file(tmp_path / "other/predictions.safetensors")
    for row in ("alone", "dist"):
        kept[f"matches.image/val/{row}/0"] = kept[f"matches.image/val/{row}/0"] + 4  # beyond the images
    save_file(kept, tmp_path / "other/predictions.safetensors")
    said = joint_verdict(read_runs([run.path, tmp_path / "other"]))
    assert "What each image gave was not kept" in said


def test_the_page_shows_ap_by_class_and_size_and_the_images_on_which_most_was_lost(run: RunFolder) -> None:
    page = (run.path / "report.html").read_text()
    assert all(f'<section id="{name}">' in page for name in ("aps", "boxes"))
    assert '<section id="sizes">' not in page  # all shapes are small
    assert "Every class in numbers (" in page
    has_agreement = any(row.summary.agreement for row in read_results(run.path).rows)
    assert ("share of the boxes that the teacher finds" in page) == has_agreement
    kept = load_file(run.predictions_file)
    images = [kept[f"examples/image/{number}"] for number in range(4)]
    assert {image.shape for image in images} == {(3, 64, 64)}
    assert sorted(int(kept[f"examples/index/{number}"]) for number in range(4)) == [0, 1, 2, 3]


def test_names_of_classes_are_escaped_and_damaged_boxes_are_passed_over(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    results = json.loads((tmp_path / "run/results.json").read_text())
    results["data"]["classes"][0] = "<b onclick=alert(1)>disc</b>"
    (tmp_path / "run/results.json").write_text(json.dumps(results))
    page = write_report(tmp_path / "run").read_text()
    assert "<b onclick" not in page
    assert "&lt;b onclick=alert(1)&gt;disc" in page
    kept = load_file(tmp_path / "run/predictions.safetensors")
    kept["examples/index/0"] = np.array(99)
    kept["examples/scale/1"] = np.array([np.nan, 1.0])
    kept["examples/image/2"] = kept["examples/image/2"][:1]
    save_file(kept, tmp_path / "run/predictions.safetensors")
    assert len(box_examples(read_run(tmp_path / "run"))) == 1
    huge = {**kept, "matches.num_images/val/dist/0": np.array(10**12)}
    assert match_list(huge, split="val", of="dist/0") is None
    assert match_list(kept, split="val", of="dist/0") is not None
    kept["matches.corners/val/alone/0"] = kept["matches.corners/val/dist/0"][:1]
    kept["matches.corners/val/dist/0"] = kept["matches.corners/val/dist/0"][:1]
    save_file(kept, tmp_path / "run/predictions.safetensors")
    assert box_examples(read_run(tmp_path / "run")) == ()
    assert '<section id="boxes">' not in write_report(tmp_path / "run").read_text()


def test_the_images_that_come_first_are_those_on_which_the_student_lost_most() -> None:
    there = [truth((0, 0, 20, 20, 0), (40, 40, 90, 90, 1)), truth((0, 0, 20, 20, 0)), truth((5, 5, 60, 60, 1))]
    both, one, other = found((0, 0, 20, 20, 0, 0.9), (40, 40, 90, 90, 1, 0.8)), found((0, 0, 20, 20, 0, 0.9)), found()
    teacher = matched([both, one, other], Boxes.packed(there), num_classes=2)
    student = matched([other, other, found((5, 5, 60, 60, 1, 0.9))], Boxes.packed(there), num_classes=2)
    assert most_lost(student, teacher).tolist() == [0, 1, 2]
    assert most_lost(teacher, student).tolist() == [2, 1, 0]
    assert most_lost(student, None).tolist() == [0, 1, 2]


def test_evaluate_gives_the_score_that_the_run_wrote(run: RunFolder) -> None:
    results = read_results(run.path)
    assert results.deployed is not None
    written = results.row(results.deployed.row).seeds[0].selected.scores
    found = evaluate(run, split="val", data=None, allow_code=False)
    assert found.scores.scores == pytest.approx(written, rel=1e-3)
    first, *by_class = found.text.splitlines()
    assert "(4 images)   AP " in first
    assert all(f"   {title} " in first for title in ("AP50", "AP75", "AP small", "AR"))
    assert len(by_class) == int(np.isfinite(found.scores.by_class.numpy()).sum()) > 0
    assert by_class[0].startswith("AP of disc")


def test_the_students_folder_is_read_and_finds_boxes(run: RunFolder) -> None:
    student = load_student(run.path)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = student(images)
        (found,) = maps.detector.detections(maps, images, torch.tensor([[64, 96]]))
    assert list(maps) == ["p2", "p3", "p4", "p5", "p6"]
    assert found.boxes.shape[1] == 4
    assert student.classes == ("disc", "square", "triangle")


def test_predict_gives_boxes_in_the_pictures_own_pixels_in_each_format(run: RunFolder, tmp_path: Path) -> None:
    network = load_student(run.path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    maps = network(torch.nn.functional.pad(images, (0, 6, 0, 24)))
    (expected,) = maps.detector.detections(maps, torch.zeros(1, 3, 64, 96), torch.tensor([[40, 90]]))
    (found,) = predictions(run.path, [picture], topk=3, say=print)
    assert [answer.probability for answer in found.student] == pytest.approx(
        expected.scores.sort(descending=True).values[:3].tolist()
    )
    offsets = (expected.boxes - torch.tensor(found.student[0].box)).abs().amax(dim=1)  # scores are close to each other
    assert offsets.min() < 1e-2
    larger = finder_of(network, DataConfig(root="boxes-of-shapes", shorter_side=80))
    assert larger is not None
    assert 50 < larger(images[0]).boxes.max() <= 90
    picture.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("none")
    given = [tmp_path / "a.png", tmp_path / "b.png"]
    lines = {
        format: list(written_as(format, predictions(run.path, given, topk=1, say=print), has_teacher=False))
        for format in ("table", "csv", "jsonl")
    }
    assert " at " in lines["table"][0]
    header, first, bad = csv.DictReader(lines["csv"]).fieldnames, *csv.DictReader(lines["csv"])
    assert header == ["image", "rank", "class", "probability", "x1", "y1", "x2", "y2", "problem"]
    assert float(first["x1"]) == pytest.approx(found.student[0].box[0], abs=0.01)
    assert bad["problem"]
    assert json.loads(lines["jsonl"][0])["student"][0]["box"] == pytest.approx(found.student[0].box, abs=0.01)


def test_analyze_holds_levels_against_the_teachers_and_leaves_out_what_looks_at_one_prediction_an_image(
    run: RunFolder, tmp_path: Path
) -> None:
    copied = RunFolder(Path(shutil.copytree(run.path, tmp_path / "run")))
    analyze([copied], AnalyzeOptions(), allow_code=False, display=Display(quiet=True))
    found = json.loads((copied.analysis / "similarity.json").read_text())
    layers = [f"stages.{number}" for number in range(5)]
    assert found["pieces"]["dist"]["student"] == found["pieces"]["dist"]["teacher"] == layers
    cka = load_file(copied.analysis / "similarity.safetensors")["dist/cka"]
    assert cka.shape == (5, 5)
    assert [file.stem for file in sorted(copied.analysis.glob("*.json"))] == ["similarity"]
    page = (copied.path / "report.html").read_text()
    assert '<section id="similarity">' in page
    assert "Loss landscape" not in page


def test_predict_writes_pictures_with_boxes(run: RunFolder, tmp_path: Path) -> None:
    pixels = np.full((40, 90, 3), 128, dtype=np.uint8)
    (one,) = predictions(run.path, [Image.fromarray(pixels)], topk=2, say=print)
    assert torch.equal(one.picture, torch.from_numpy(pixels).permute(2, 0, 1))
    write_boxes(one, PictureFolder(tmp_path, "--boxes"))
    drawn = np.asarray(Image.open(tmp_path / "image 0.png"))
    assert drawn.shape == pixels.shape
    x1, y1, *_ = (round(side) for side in one.student[0].box)
    assert (drawn[min(39, y1 + 8), max(0, x1)] != 128).any()
    assert (drawn == 128).any()
    with pytest.raises(UserError, match="its student is no detector"):
        write_boxes(Prediction("a.png", (Answer("cat", 0.9),)), PictureFolder(tmp_path, "--boxes"))


@pytest.mark.slow
def test_an_exported_file_finds_what_the_run_finds_and_is_scored_like_it(run: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs pip install 'understudy[export]'")
    file = tmp_path / "student.onnx"
    report = export_run(run, [Wanted(FORMATS["onnx"](), file)], allow_code=False, say=print)
    text = report.describe()
    assert "images (1,3,64,64), RGB in [0,1]; normalised inside\noutput   boxes, labels, scores; corners" in text
    torchs, files = report.rows
    assert files.score == pytest.approx(torchs.score, rel=1e-6)
    assert set(files.latencies) == {(1, 1), (max(threads for threads, _ in files.latencies), 1)}
    pixels = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    pictures = [Image.fromarray(one) for one in pixels]
    by_file = predictions(file, pictures, topk=3, say=print)
    for ours, theirs in zip(by_file, predictions(run.path, pictures, topk=3, say=print), strict=True):
        assert [answer.name for answer in ours.student] == [answer.name for answer in theirs.student]
        assert len(ours.student) == 3
        for one, other in zip(ours.student, theirs.student, strict=True):
            assert one.probability == pytest.approx(other.probability, abs=1e-4)
            assert one.box == pytest.approx(other.box, abs=1e-2)
    wide = Image.fromarray(pixels[0]).resize((200, 120))  # scaled to fit into what the file takes
    (found,) = predictions(file, [wide], topk=100, say=print)
    wide.save(tmp_path / "wide.png")
    example = Path(__file__).parents[2] / "examples/onnx_boxes.py"
    words = [sys.executable, str(example), str(file), str(tmp_path / "wide.png")]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 5
    name, share, corners = re.fullmatch(r".*: (\w+) (\S+) % at (.*)", lines[0]).groups()  # type: ignore[union-attr]
    best = found.student[0]
    assert (name, float(share)) == (best.name, pytest.approx(100 * best.probability, abs=2))  # Pillow's own resizing
    assert [float(corner) for corner in corners.split()] == pytest.approx(best.box, abs=3)
    assert 64 < max(answer.box[2] for answer in found.student if answer.box) <= 200
    assert max(answer.box[3] for answer in found.student if answer.box) <= 120


def test_what_cannot_be_written_of_a_detector_is_refused_in_words(run: RunFolder, tmp_path: Path) -> None:
    wanted = [Wanted(FORMATS["pt2"](), tmp_path / "student.pt2")]
    for boxes, message in (
        (BoxForm(), "cannot hold how many boxes non-maximum suppression leaves"),
        (BoxForm(size=(64, 50)), "is in multiples of 32, got 64 x 50"),
    ):
        with pytest.raises(UserError, match=message):
            export_run(run, wanted, allow_code=False, boxes=boxes, say=print)
    with pytest.raises(UserError, match="--raw is of detectors' files"):
        BoxForm(raw=True).check("classification")


def test_the_card_of_a_detector_is_of_a_detector_and_its_code_finds_boxes(run: RunFolder) -> None:
    card = (run.path / "student" / "README.md").read_text()
    assert "pipeline_tag: object-detection" in card
    assert "A detector of objects in images with 3 classes: disc, square, triangle." in card
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(run.path / "student"))
    scope: dict[str, Any] = {"images": torch.rand(2, 3, 64, 64)}
    exec(code, scope)
    assert len(scope["found"]) == 2
    results = read_results(run.path)
    row = results.rows[0]
    named = row.model_copy(update={"student": row.student.model_copy(update={"model": "hf:someone/detr"})})
    text = model_card(results, named, row.seeds[0], environment={})
    assert "library_name: transformers" in text
    assert "AutoModelForObjectDetection" in text
    said = push_student(run.path, "me/shapes", dry_run=True, private=False, license=None)
    assert "model.safetensors" in said


def test_predict_shows_the_teachers_boxes_beside_the_students(run: RunFolder, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    recipe = recipe_of()
    network = open_components(recipe, allow_code=False, say=print).teacher_network
    assert network is not None
    finder = finder_of(network.prepared, recipe.data)
    assert finder is not None
    expected = finder(torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    (one,) = predictions(run.path, [picture], topk=2, teacher=True, say=print)
    assert one.teacher is not None
    assert [answer.probability for answer in one.teacher] == pytest.approx(expected.scores[:2].tolist())
    assert one.teacher[0].box == pytest.approx(expected.boxes[0].tolist())
    assert one.student == next(predictions(run.path, [picture], topk=2, say=print)).student != one.teacher
    rows = list(csv.DictReader(written_as("csv", [one], has_teacher=True)))
    assert [(row["of"], row["rank"]) for row in rows] == [
        ("student", "1"),
        ("student", "2"),
        ("teacher", "1"),
        ("teacher", "2"),
    ]
    assert float(rows[2]["x1"]) == pytest.approx(one.teacher[0].box[0], abs=0.01)
    assert json.loads(next(written_as("jsonl", [one], has_teacher=True)))["teacher"][0]["box"]
    bare = dataclasses.replace(one, teacher=())
    assert "teacher   nothing found" in list(written_as("table", [bare], has_teacher=True))[1]
    write_boxes(dataclasses.replace(one, student=()), PictureFolder(tmp_path, "--boxes"))
    drawn = np.asarray(Image.open(tmp_path / "image 0.png"))
    assert drawn.shape[1] >= 2 * 90
    assert (drawn[-40:, :90] == pixels).all()
    assert (drawn[-40:, -90:] != pixels).any()


def test_a_teacher_that_is_no_detector_or_tells_other_classes_is_not_shown_beside_one(run: RunFolder) -> None:
    for module, message in (
        (torch.nn.Conv2d(3, 3, 1), r"is no detector and .* is one.*understudy\.detector\(network, num_classes\)"),
        (small_detector(num_classes=2), "tells 2 classes apart and its student 3"),
    ):
        with pytest.raises(UserError, match=message):
            predictions(run.path, [Image.new("RGB", (8, 8))], teacher=module, say=print)


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


def test_a_folder_of_loose_images_is_asked_for_boxes_and_not_for_class_folders(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"has no boxes, which detection is about; give a folder with COCO's json"):
        open_data_of(recipe_of(data={"root": str(tmp_path)}))


def test_a_student_whose_folder_could_not_be_read_is_refused() -> None:
    components = open_components(recipe_of(), allow_code=False, say=print)
    check_rows(components, rows_of(recipe_of()))
    components.student_network.module.columns = (1, 2, 5)  # as of torchvision's weights for COCO
    with pytest.raises(UserError, match="keeps the columns of its published weights"):
        check_rows(components, rows_of(recipe_of()))


@pytest.mark.slow
def test_a_compiled_backbone_learns_what_an_eager_one_does(tmp_path: Path) -> None:
    settings = {"rows": [], "method": "none", "teacher": None, "epochs": 1}
    losses = []
    for compile in (False, True):
        made = run_recipe(recipe_of(**settings, compile=compile), tmp_path / f"{compile}")
        losses += [line["train"]["task_loss"] for line in read_metrics(made) if line["kind"] == "epoch"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_the_same_bit_for_bit(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_recipe(recipe_of(), tmp_path / "run", display=Eventful(1, 3, press_ctrl_c))
    again = run_recipe(recipe_of(), tmp_path / "run")
    expected, found = reproducible_files(run), reproducible_files(again)
    assert {name for name in expected if expected[name] != found.get(name)} <= {"results.json"}  # its run's name
