"""Folders of images and masks in which something is wrong: what is refused, what is said, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.masks import masks_folder, save_mask
from understudy.data import DataConfig, DataSplits, open_data
from understudy.utils.errors import UserError


def opened(root: Path, **settings: Any) -> DataSplits:
    return open_data(DataConfig(root=str(root), workers=0, **settings))


def with_masks(root: Path, change: Callable[[np.ndarray], Any], split: str = "*", *, names: str | None = None) -> Path:
    """A folder of 6 + 4 pairs whose masks were changed, and whose classes have these names."""
    masks_folder(root)
    (root / "classes.txt").unlink()
    if names is not None:
        (root / "classes.txt").write_text(names)
    for file in root.glob(f"masks/{split}/*.png"):
        save_mask(file, change(np.asarray(Image.open(file))))
    return root


def white(mask: np.ndarray) -> np.ndarray:
    return np.where((mask > 0) & (mask < 255), 255, 0)


@pytest.mark.parametrize("names", [None, "background\nthing\n"])
def test_masks_of_black_and_white_are_refused_with_the_map_that_makes_white_a_class(
    tmp_path: Path, names: str | None
) -> None:
    root = with_masks(tmp_path, white, names=names)
    with pytest.raises(UserError, match=r"one class .*255 has no class; .* data\.class_map='\{0: 0, 255: 1\}'"):
        opened(root)
    data = opened(root, class_map={0: 0, 255: 1})
    assert len(data.classes) == 2


def test_numbers_with_holes_are_said_where_nothing_names_the_classes(tmp_path: Path) -> None:
    root = with_masks(tmp_path, lambda mask: np.where(mask == 3, 200, np.where(mask == 255, 0, mask)))
    data = opened(root)
    assert len(data.classes) == 201
    (said,) = (note for note in data.notes if note.startswith("the masks hold"))
    assert said == (
        "the masks hold 4 of the numbers 0..200, and each of these is taken for a class; data.class_map='{0: 0, 1: 1, "
        "2: 2, 200: 3}' takes those alone, data.ignored=200 one for no class"
    )
    assert not any(note.startswith("the masks hold") for note in opened(root, ignored=200).notes)


def test_a_class_that_no_mask_of_train_has_is_said(tmp_path: Path) -> None:
    root = with_masks(tmp_path, lambda mask: np.where(mask == 3, 1, mask), names="a\nb\nc\nd\n")
    assert "no mask of train has a pixel of 1 of 4 classes: d" in opened(root).notes


def test_a_split_whose_masks_are_all_ignored_is_named(tmp_path: Path) -> None:
    root = with_masks(tmp_path, lambda mask: np.full_like(mask, 255), "val", names="a\nb\nc\nd\n")
    with pytest.raises(UserError, match="val: no pixel of the masks has a class"):
        opened(root)


def test_single_masks_of_no_use_are_said_before_training_and_refused_where_a_person_wants_that(tmp_path: Path) -> None:
    masks_folder(tmp_path)
    save_mask(tmp_path / "masks/train/1_2.png", np.ones((8, 16)))
    (said,) = (note for note in opened(tmp_path).notes if "of no use" in note)
    assert said == (
        "train: 1 mask is of no use: 1_2.png has 32 x 32 pixels and its mask 16 x 8; export them at the size of their "
        "images, or resize them by nearest neighbour (left out; `data.on_bad_image: stop` to refuse)"
    )
    with pytest.raises(UserError, match="train: 1 mask is of no use"):
        opened(tmp_path, on_bad_image="stop")
    (tmp_path / "classes.txt").unlink()
    file = tmp_path / "masks/train/1_2.png"
    file.write_bytes(file.read_bytes()[:50])
    data = opened(tmp_path)
    assert len(data.classes) == 4
    assert any("1 mask is of no use: 1_2.png" in note for note in data.notes)


def test_masks_of_other_sizes_say_how_they_become_of_use(tmp_path: Path) -> None:
    masks_folder(tmp_path)
    for file in (tmp_path / "masks/train").iterdir():
        save_mask(file, np.ones((8, 16)))
    with pytest.raises(UserError, match="resize them by nearest neighbour"):
        opened(tmp_path)


def test_masks_that_fit_turned_images_say_so_where_images_are_not_turned(tmp_path: Path) -> None:
    masks_folder(tmp_path)
    for file in (tmp_path / "images/train").iterdir():
        turned = Image.Exif()
        turned[0x0112] = 8
        file.unlink()
        Image.new("RGB", (32, 16)).save(file.with_suffix(".jpg"), exif=turned)
        save_mask(tmp_path / "masks/train" / file.name, np.arange(512).reshape(32, 16) % 4)
    with pytest.raises(UserError, match=r"fit images that EXIF turns: leave out data\.exif_rotation=false"):
        opened(tmp_path, exif_rotation=False)
    assert len(opened(tmp_path).train) == 6


def test_damaged_images_and_masks_are_left_out_by_name(tmp_path: Path) -> None:
    masks_folder(tmp_path)
    (tmp_path / "images/train/1_0.png").write_bytes(b"")
    (tmp_path / "masks/val/2_1.png").write_bytes(b"PNG?")
    (tmp_path / "masks/val/notes.txt").write_text("mine")
    data = opened(tmp_path)
    assert (len(data.train), len(data.val)) == (5, 3)
    (said,) = (note for note in data.notes if "no images" in note)
    assert said.startswith("2 files are no images: train: 1_0.png, val: 2_1.png (skipped")
    with pytest.raises(UserError, match="2 files are no images"):
        opened(tmp_path, on_bad_image="stop")


def test_an_empty_split_is_told_from_one_whose_names_do_not_fit(tmp_path: Path) -> None:
    masks_folder(tmp_path)
    for file in [*tmp_path.glob("masks/val/*"), *tmp_path.glob("images/val/*")]:
        file.unlink()
    with pytest.raises(UserError, match="are empty; put images and masks there, or take both folders away"):
        opened(tmp_path)
