"""EXIF orientation: applied where images are decoded, said once, and never to a run or a bank of before."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageOps

from helpers.command_line import done
from helpers.images import pixels, write_tree
from understudy.data import open_data
from understudy.data.config import DataConfig
from understudy.data.sources.decoding import decoded

TINY = ("--student", "cifar:resnet8", "student.kwargs={width: 0.25}", "--epochs", "1", "data.workers=0", "threads=1")


def turned(kind: str, orientation: int, size: tuple[int, int] = (24, 16)) -> bytes:
    """An image file whose EXIF says how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(pixels(orientation, *size)).save(file, kind, exif=exif.tobytes(), **options)
    return file.getvalue()


def as_array(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_pil_turns_it(kind: str, orientation: int) -> None:
    data = turned(kind, orientation)
    by_pil = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")).astype(int)
    assert as_array(decoded(data, "a")).shape == by_pil.shape
    assert np.abs(as_array(decoded(data, "a")) - by_pil).max() <= 3  # two libraries' inverse DCT
    assert decoded(data, "a", applies_exif=False).shape == (3, 24, 16)


def test_greys_of_16_bits_are_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3) * 10_000).save(file, "PNG", exif=exif.tobytes())
    grey = decoded(file.getvalue(), "a.png", (0, 65_535))[0]
    assert grey.tolist() == [[117, 0], [156, 39], [195, 78]]


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 40, b""])
def test_a_damaged_exif_block_leaves_the_picture_as_it_lies(exif: bytes) -> None:
    file = io.BytesIO()
    Image.fromarray(pixels(0, 24, 16)).save(file, "JPEG", exif=exif)
    assert decoded(file.getvalue(), "a").shape == (3, 24, 16)
    file = io.BytesIO()
    Image.fromarray(pixels(0, 24, 16)).save(file, "PNG", exif=exif)
    assert decoded(file.getvalue(), "a").shape == (3, 24, 16)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve images of two classes, of which two carry a rotation."""
    root = write_tree(tmp_path / "photos", {"a": 6, "b": 6})
    for name in ("a/0.jpg", "b/3.jpg"):
        (root / name).write_bytes(turned("JPEG", 6, (24, 24)))
    return root


def test_how_many_carry_a_rotation_is_said_once(photos: Path) -> None:
    data = open_data(DataConfig(root=str(photos)))
    assert [note for note in data.notes if "EXIF" in note] == [
        "2 images carry a rotation (EXIF) and are turned upright (data.exif_rotation=false does not)"
    ]
    left = open_data(DataConfig(root=str(photos), exif_rotation=False))
    assert [note for note in left.notes if "EXIF" in note] == [
        "2 images carry a rotation (EXIF) that is not applied (data.exif_rotation: false)"
    ]
    assert (data.num_rotated, left.num_rotated) == (2, 0)
    assert not torch.equal(data.train.images, left.train.images)  # type: ignore[attr-defined]


def test_of_images_without_a_rotation_nothing_is_said(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "plain", {"a": 3, "b": 3})
    assert not [note for note in open_data(DataConfig(root=str(root))).notes if "EXIF" in note]


def test_unlabelled_images_are_turned_too(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/0.jpg").write_bytes(turned("JPEG", 8, (24, 24)))
    given = {"root": str(photos), "unlabelled": str(tmp_path / "more")}
    data, left = open_data(DataConfig(**given)), open_data(DataConfig(**given, exif_rotation=False))
    assert data.num_rotated == 3
    assert not torch.equal(data.train.image(len(data.train) - 1), left.train.image(len(left.train) - 1))


def as_of_before(run: Path) -> None:
    """Take the setting out of a run folder, as one that was written before there was such a thing."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    del recipe["data"]["exif_rotation"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))


def weights(run: Path) -> bytes:
    return (run / "student/model.safetensors").read_bytes()


def test_a_run_of_before_goes_on_with_images_as_they_lie(photos: Path, tmp_path: Path) -> None:
    train = ("train", *TINY, "--method", "alone", "--data", photos)
    whole, begun = tmp_path / "whole", tmp_path / "begun"
    done(*train, "data.exif_rotation=false", "--epochs", "2", "--out", whole)
    done(*train, "data.exif_rotation=false", "--out", begun)
    as_of_before(begun)
    longer = shutil.copytree(begun, tmp_path / "longer")
    done(*train, "--epochs", "2", "--out", longer)  # the command of before, which knew no such setting
    assert "exif_rotation" not in yaml.safe_load((longer / "recipe.yaml").read_text())["data"]
    by_hand = shutil.copytree(begun, tmp_path / "by_hand")
    done(*train, "data.exif_rotation=false", "--epochs", "2", "--out", by_hand)
    assert weights(longer) == weights(by_hand)
    upright = tmp_path / "upright"
    done(*train, "--epochs", "2", "--out", upright)
    assert weights(upright) != weights(whole)


def test_a_numbered_run_of_before_that_was_cut_off_is_found_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train = ("train", *TINY, "--method", "alone", "--data", photos)
    done(*train, "data.exif_rotation=false")
    (run,) = (tmp_path / "runs").iterdir()
    as_of_before(run)
    before = weights(run)
    for file in ("results.json", "report.html"):
        (run / file).unlink()
    done(*train)
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == [run.name]
    assert weights(run) == before


def test_a_run_of_before_is_evaluated_on_images_as_they_lie(photos: Path, tmp_path: Path) -> None:
    done("train", *TINY, "--method", "alone", "--data", photos, "data.exif_rotation=false", "--out", tmp_path / "run")
    said = done("evaluate", tmp_path / "run")
    as_of_before(tmp_path / "run")
    assert done("evaluate", tmp_path / "run") == said


def test_a_bank_of_before_teaches_about_images_as_they_lie(photos: Path, tmp_path: Path) -> None:
    taught = ("--teacher", "cifar:resnet8", "--data", photos, *TINY, "--allow-weak-teacher")
    words = [word for word in taught if word not in ("--epochs", "1")]
    bank = tmp_path / "bank"
    done("bank", *words, "--views", "1", "--out", bank, "data.exif_rotation=false")  # its key is that of before
    said = done("train", *taught, "--bank", bank, "--out", tmp_path / "run")
    assert "was made of images as they lie in their files: so are these" in " ".join(said.split())
    assert yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())["data"]["exif_rotation"] is False
    done("bank", *words, "--views", "1", "--out", tmp_path / "upright")
    done("train", *taught, "--bank", tmp_path / "upright", "--out", tmp_path / "run2")
    assert yaml.safe_load((tmp_path / "run2/recipe.yaml").read_text())["data"]["exif_rotation"] is True
