"""`evaluate` on folders that hold some of the student's classes, and on those that hold others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.command_line import done, refused, understudy
from helpers.images import write_tree

CLASSES = ("a", "b", "Öl & tanker")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data") / "photos", dict.fromkeys(CLASSES, 8))


@pytest.fixture(scope="module")
def run(photos: Path) -> Path:
    folder = photos.parent / "run"
    words = ("--student", "cifar:resnet8", "student.kwargs={width: 0.25}", "threads=1", "data.workers=0")
    alone = ("--method", "alone", "data.batch_size=6")
    done("train", *words, *alone, "--data", photos, "--epochs", "12", "--out", folder)
    return folder


def scored(said: str) -> tuple[int, float]:
    """Images, and how many of them are right."""
    num_images = int(said.split(" images)")[0].split("(")[-1])
    return num_images, round(num_images * float(said.split("top-1 ")[1].split(" %")[0]) / 100)


def test_the_scores_of_some_classes_add_up_to_those_of_all(run: Path, photos: Path, tmp_path: Path) -> None:
    parts = []
    for number, names in enumerate((CLASSES[1:], CLASSES[:1])):
        for name in names:
            shutil.copytree(photos / name, tmp_path / f"part{number}" / name)
        parts.append(done("evaluate", run, "--data", tmp_path / f"part{number}"))
    whole = scored(done("evaluate", run, "--data", shutil.copytree(photos, tmp_path / "again")))
    assert "part0, all of it, 2 of its 3 classes (16 images)" in parts[0]
    assert "part1, all of it, 1 of its 3 classes (8 images)" in parts[1]
    assert whole == tuple(sum(numbers) for numbers in zip(*map(scored, parts), strict=True))
    assert whole[1] > 8  # it has learnt something, so that a wrong numbering would be seen
    few = shutil.copytree(tmp_path / "part1", tmp_path / "few")
    for extra in sorted(few.glob("*/*"))[2:]:
        extra.unlink()
    assert "few, all of it, 1 of its 3 classes (2 images)" in done("evaluate", run, "--data", few)


def test_a_class_that_the_student_does_not_know_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    other = write_tree(tmp_path / "other", {"b": 2, "zebra": 2})
    said = refused("evaluate", run, "--data", other)
    assert "other has 1 class that the student did not learn: zebra" in said
    assert "it knows a, b, Öl & tanker (3 classes)" in said


def test_images_that_are_left_out_are_named(run: Path, tmp_path: Path) -> None:
    other = write_tree(tmp_path / "other", {"b": 3})
    (other / "b/broken.jpg").write_bytes(b"no image")
    said = understudy("evaluate", run, "--data", other)
    assert said.code == 0
    assert "(3 images)" in said.out
    assert "1 file is no image: b/broken.jpg" in said.err
