"""`understudy predict`: pictures in, names of classes and probabilities out."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

import understudy as us
from helpers.command_line import done, refused, understudy
from helpers.images import coloured_jpeg, pixels, write_tree
from understudy.cli.predictions import written_as
from understudy.runs.predict import Answer, Prediction
from understudy.utils.errors import UserError

CLASSES = ("b", "Äffchen", "Öl & tanker")
TINY = ("--student", "cifar:resnet8", "student.kwargs={width: 0.25}", "threads=1", "data.workers=0", "--epochs", "12")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("predicted") / "photos", dict.fromkeys(CLASSES, 8))


@pytest.fixture(scope="module")
def run(photos: Path) -> Path:
    """A student of small photographs, with a teacher that was trained here."""
    out = photos.parent / "run"
    taught = ("--teacher", "cifar:resnet8", "--train-teacher", "8", "--allow-weak-teacher", "data.batch_size=6")
    done("train", *TINY, *taught, "--data", photos, "--out", out)
    return out


@pytest.fixture(scope="module")
def large_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of photographs that are scaled and cut."""
    root = tmp_path_factory.mktemp("large")
    photos = write_tree(root / "photos", {"a": 5, "b": 5}, (80, 100))
    alone = ("--method", "alone", "data.image_size=32")
    done("train", *TINY[:-1], "1", *alone, "--data", photos, "--out", root / "run")
    return root / "run"


def validated(run: Path) -> dict[str, torch.Tensor]:
    """What a run's student said of its validation images."""
    kept = load_file(run / "predictions.safetensors")
    (said,) = (tensor for name, tensor in kept.items() if name.startswith("val/") and name.endswith("/0"))
    return {"said": said, "labels": kept["val/labels"]}


def test_every_picture_gets_its_likeliest_classes(run: Path, photos: Path) -> None:
    found = us.predict(run, photos, topk=3)
    assert len(found) == 24
    for one in found:
        assert {answer.name for answer in one.student} == set(CLASSES)
        assert sum(answer.probability for answer in one.student) == pytest.approx(1, abs=1e-5)
        assert one.name == max(one.student, key=lambda answer: answer.probability).name
    right = sum(one.name == Path(one.image).parent.name for one in found)
    scores = us.evaluate(run, data=shutil.copytree(photos, run.parent / "again"))
    assert 100 * right / 24 == pytest.approx(scores["top1"], abs=0.01)
    assert right > 8


def test_photographs_are_scaled_and_cut_as_evaluation_does(large_run: Path) -> None:
    photos = large_run.parent / "photos"
    module = us.load_student(large_run)
    found = us.predict(large_run, photos, topk=2)
    from understudy.data.augment.crops import fitted
    from understudy.data.sources.decoding import decoded

    for one in found:
        image = decoded(Path(one.image).read_bytes(), "a")
        with torch.no_grad():
            expected = module(fitted(image, 32)[None].float() / 255).softmax(1)[0]
        assert {a.name: a.probability for a in one.student} == pytest.approx(
            dict(zip("ab", expected.tolist(), strict=True))
        )


def test_a_folder_a_file_a_loaded_module_and_onnx_say_the_same(large_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs pip install 'understudy[export]'")
    us.export(large_run, onnx=tmp_path / "a.onnx", most_images=0)
    photos = large_run.parent / "photos"
    whole = us.predict(large_run, photos, topk=2)
    example = Path(__file__).parents[2] / "examples/onnx_predict.py"
    words = [sys.executable, str(example), str(tmp_path / "a.onnx"), *(one.image for one in whole)]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    for line, one in zip(lines, whole, strict=True):
        shares = {answer.name: answer.probability for answer in one.student}
        name, share = line.removesuffix(" %").rsplit(" ", 2)[-2:]
        assert float(share) / 100 == pytest.approx(shares[name], abs=0.01)
    for student in (large_run / "student", tmp_path / "a.onnx", us.load_student(large_run)):
        for one, other in zip(us.predict(student, photos, topk=2), whole, strict=True):
            assert [a.name for a in one.student] == [a.name for a in other.student]
            assert one.student[0].probability == pytest.approx(other.student[0].probability, abs=1e-4)


def test_the_table_has_a_line_for_each_picture(run: Path, photos: Path) -> None:
    said = done("predict", run, photos / "b/0.jpg", photos / "Öl & tanker", "--topk", 2).splitlines()
    assert len(said) == 9
    assert said[0].startswith(f"{photos}/b/0.jpg")
    assert said[0].count(" %") == 2


def test_csv_and_json_lines_are_read_back(run: Path, photos: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(done("predict", run, photos, "--format", "csv", "--topk", 2))))
    assert len(rows) == 48
    assert list(rows[0]) == ["image", "rank", "class", "probability", "problem"]
    lines = [json.loads(line) for line in done("predict", run, photos, "--format", "jsonl").splitlines()]
    assert [line["image"] for line in lines] == [row["image"] for row in rows[::2]]
    assert lines[0]["student"][0]["class"] == rows[0]["class"]
    assert lines[0]["student"][0]["probability"] == pytest.approx(float(rows[0]["probability"]), abs=1e-6)


def test_the_teacher_stands_beside_the_student(run: Path, photos: Path) -> None:
    lines = [json.loads(line) for line in done("predict", run, photos, "--teacher", "--format", "jsonl").splitlines()]
    right = sum(line["teacher"][0]["class"] == Path(line["image"]).parent.name for line in lines)
    assert right > 8  # it was trained, and its weights are those of the run
    assert any(line["teacher"][0]["probability"] != line["student"][0]["probability"] for line in lines)
    table = done("predict", run, photos / "b/0.jpg", "--teacher").splitlines()
    assert [line.split()[-len(line.split()) + (1 if i == 0 else 0)] for i, line in enumerate(table)] == [
        "student",
        "teacher",
    ]


def test_a_teacher_whose_weights_are_a_file_says_what_it_says(run: Path, photos: Path, tmp_path: Path) -> None:
    taught = ("--teacher", "cifar:resnet8", "--teacher-weights", run / "teacher", "--allow-weak-teacher")
    said = done("train", *TINY[:-1], "1", *taught, "--data", photos, "--out", tmp_path / "an other")
    folder = f"'{tmp_path}/an other'"
    assert said.endswith(
        f"Next: understudy predict {folder} IMAGES...\n      understudy export {folder} --onnx student.onnx\n"
    )
    pairs = zip(*(us.predict(one, photos, teacher=True, topk=3) for one in (run, tmp_path / "an other")), strict=True)
    for here, there in pairs:
        assert here.teacher is not None
        assert there.teacher is not None
        assert {a.name: a.probability for a in here.teacher} == pytest.approx(
            {a.name: a.probability for a in there.teacher}, abs=1e-5
        )
        assert here.student != there.student


def test_a_student_that_learnt_alone_has_no_teacher_to_show(large_run: Path) -> None:
    photos = large_run.parent / "photos"
    assert "has no teacher: its student learnt alone" in refused("predict", large_run, photos, "--teacher")
    assert "has no teacher beside it; give the run" in refused("predict", large_run / "student", photos, "--teacher")


def test_a_broken_picture_is_answered_in_words_and_the_others_all_the_same(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    good = (photos / "b/0.jpg").read_bytes()
    for name, data in {"a.jpg": good, "b.jpg": b"hello", "c.jpg": b"", "d.jpg": good[:300], "e.jpg": good}.items():
        (tmp_path / name).write_bytes(data)
    files = sorted(tmp_path.glob("*.jpg"))
    said = understudy("predict", run, *files, "--format", "jsonl")
    assert said.code == 0
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert ["problem" in line for line in lines] == [False, True, True, True, False]
    assert lines[0]["student"] == lines[4]["student"]
    assert "3 images cannot be read" in said.err
    rows = list(csv.DictReader(io.StringIO(done("predict", run, *files, "--format", "csv"))))
    assert [row["problem"] != "" for row in rows] == [False] * 3 + [True] * 3 + [False] * 3
    assert "cannot be read: " in done("predict", run, *files)
    assert "no image could be read" in refused("predict", run, *files[1:3])


def test_pictures_of_every_kind_are_read(run: Path, tmp_path: Path) -> None:
    colours = Image.fromarray(pixels(0, 40, 30))
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        colours.convert(mode).save(tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}")
    Image.fromarray(np.linspace(0, 65_535, 1200).astype(np.uint16).reshape(40, 30)).save(tmp_path / "deep.png")
    found = us.predict(run, tmp_path)
    assert [one.problem for one in found] == [None] * 6
    assert us.predict(run, [colours])[0].image == "image 0"


def test_what_is_not_there_is_refused_before_anything_is_said(run: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("no image")
    said = understudy("predict", run, photos, photos / "b/0.jpgg", "--format", "csv")
    assert (said.code, said.out) == (2, "")
    assert "did you mean 0.jpg?" in said.err
    assert "empty holds no image; give image files" in refused("predict", run, tmp_path / "empty")
    assert "notes holds no image" in refused("predict", run, tmp_path / "notes")
    beside = understudy("predict", run, tmp_path / "empty", photos / "b/0.jpg")
    assert beside.code == 0
    assert "empty holds no image" in beside.err
    assert "there is nothing at" in refused("predict", tmp_path / "gone", photos)
    assert "there is no file" in refused("predict", tmp_path / "gone.onnx", photos)
    assert "unknown; there are: csv, jsonl, table" in refused("predict", run, photos, "--format", "xml")


def test_without_class_names_classes_are_numbered_and_that_is_said(large_run: Path, tmp_path: Path) -> None:
    student = shutil.copytree(large_run / "student", tmp_path / "unnamed")
    config = json.loads((student / "config.json").read_text())
    del config["label_names"]
    (student / "config.json").write_text(json.dumps(config))
    said = understudy("predict", student, large_run.parent / "photos/a/0.jpg", "--format", "jsonl")
    assert {answer["class"] for answer in json.loads(said.out)["student"]} == {"0", "1"}
    assert "does not say what its classes are called; they are numbered from 0" in said.err


def test_photographs_are_turned_upright_as_the_run_was_taught(large_run: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(coloured_jpeg(0, 0, (80, 100)))).save(tmp_path / "a.png", exif=exif)
    Image.open(tmp_path / "a.png").transpose(Image.Transpose.ROTATE_270).save(tmp_path / "b.png", exif=b"")
    turned, upright = us.predict(large_run, [tmp_path / "a.png", tmp_path / "b.png"])
    assert turned.student == upright.student
    of_before = shutil.copytree(large_run, tmp_path / "before")
    recipe = (of_before / "recipe.yaml").read_text().replace("  exif_rotation: true\n", "")
    (of_before / "recipe.yaml").write_text(recipe)
    assert us.predict(of_before, tmp_path / "a.png")[0].student != upright.student


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.mean((2, 3)))


def test_what_distill_made_predicts_by_itself_or_with_a_network_built_alike(photos: Path, tmp_path: Path) -> None:
    images = TensorDataset(torch.rand(12, 3, 24, 24), torch.arange(12) % 3)
    quick = {"epochs": 1, "quiet": True, "out": tmp_path / "made", "allow_weak_teacher": True}
    result = us.distill(Own(), Own(), train=images, val=images, classes=list(CLASSES), **quick)
    assert list(result.student.state_dict()) == ["head.weight", "head.bias"]
    by_result = us.predict(result, photos / "b", topk=3)
    assert {answer.name for answer in by_result[0].student} == set(CLASSES)
    assert us.predict(tmp_path / "made", photos / "b", module=Own(), topk=3) == by_result
    assert us.predict(tmp_path / "made/student", photos / "b", module=Own(), topk=3) == by_result
    assert us.predict(result, photos / "b", teacher=Own())[0].teacher is not None
    with pytest.raises(UserError, match=r"its teacher was handed over in Python; there, predict\(..., teacher=NETWORK"):
        us.predict(result, photos / "b", teacher=True)
    assert set(us.evaluate(result, data=photos)) >= {"top1", "loss"}
    report = us.export(result, torchscript=tmp_path / "a.pt", data=photos)
    assert report.rows[0].score == pytest.approx(report.rows[1].score)


def test_a_teacher_that_sees_fewer_classes_on_a_picture_leaves_its_cells_empty() -> None:
    segmented = Prediction("a.png", (Answer("sky", 0.75), Answer("road", 0.25)), (Answer("sky", 1.0),))
    assert [*written_as("csv", [segmented], has_teacher=True)][1:] == [
        "a.png,1,sky,0.750000,sky,1.000000,",
        "a.png,2,road,0.250000,,,",
    ]


@pytest.mark.parametrize("images", [7, [b"bytes"], []])
def test_other_things_than_pictures_are_refused(run: Path, images: object) -> None:
    with pytest.raises(UserError, match=r"images are paths or PIL images|the list of images holds no image"):
        us.predict(run, images)
