"""Folders called train, val or test: splits, or classes, by what lies in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.data import DataConfig, DataSplits, open_data
from understudy.utils.errors import UserError

WriteTree = Callable[..., Path]
VEHICLES = {"bus": 3, "car": 3}


def opened(root: Path, **settings: Any) -> DataSplits:
    return open_data(DataConfig(root=str(root), cache=False, **settings))


@pytest.mark.parametrize("train", [{"train": 3}, {"train/steam": 2, "train/electric": 2}])
def test_a_class_called_train_beside_others_is_a_class(train: dict[str, int], write_tree: WriteTree) -> None:
    data = opened(write_tree({**VEHICLES, **train}))
    assert data.classes == ("bus", "car", "train")
    assert any("taken for a class" in note for note in data.notes)


def test_classes_called_train_and_test_beside_others_are_classes(write_tree: WriteTree) -> None:
    data = opened(write_tree({"bus": 3, "train/steam": 2, "test/pilot": 2}))
    assert data.classes == ("bus", "test", "train")


@pytest.mark.parametrize("split", ["test", "val", "train"])
def test_a_flat_class_called_like_a_split_needs_no_train(split: str, write_tree: WriteTree) -> None:
    data = opened(write_tree({**VEHICLES, split: 3}))
    assert data.classes == ("bus", "car", split)
    assert f"{split} is taken for a class, as the images of {split} lie in no class folder" in data.notes


def test_classes_called_val_and_test_beside_another_are_classes(write_tree: WriteTree) -> None:
    data = opened(write_tree({"bus": 3, "val": 3, "test": 3}))
    assert data.classes == ("bus", "test", "val")
    assert "test, val are taken for classes, as the images of test, val lie in no class folder" in data.notes


def test_a_lone_folder_of_images_called_test_is_refused(write_tree: WriteTree) -> None:
    with pytest.raises(UserError, match="has no class folders: the images of test lie in no folder of a class"):
        opened(write_tree({"test": 3}))


def test_what_lies_beside_splits_of_the_same_classes_is_named(write_tree: WriteTree) -> None:
    data = opened(write_tree({"train/cat": 3, "train/dog": 3, "val/cat": 1, "val/dog": 1, "raw": 4}))
    assert (data.classes, len(data.train)) == (("cat", "dog"), 6)
    assert any(note.startswith("not read: raw/, since train/CLASS, val/CLASS are") for note in data.notes)


def test_images_in_no_class_folder_are_named_and_left_out(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 3, "train/dog": 3, "val/cat": 1, "test": 4})
    (root / "train/lost.jpg").write_bytes((root / "train/cat/0.jpg").read_bytes())
    data = opened(root)
    assert (data.classes, len(data.train), data.test) == (("cat", "dog"), 6, None)
    assert any(note.startswith("not read: test/, 1 image directly in train/, since") for note in data.notes)


def test_the_folder_of_unlabelled_images_is_no_class(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 3, "train/dog": 3, "more": 4})
    data = opened(root, unlabelled=str(root / "more"))
    assert (data.classes, data.num_unlabelled) == (("cat", "dog"), 4)


def test_the_layout_can_be_said(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 3, "train/dog": 3, "other": 3})
    assert opened(root).classes == opened(root, format="classes").classes == ("other", "train")
    data = opened(root, format="splits")
    assert data.classes == ("cat", "dog")
    assert any("other/" in note for note in data.notes)


def test_splits_without_classes_are_refused_rather_than_taken_for_classes(write_tree: WriteTree) -> None:
    root = write_tree({"train": 3, "val": 3})
    with pytest.raises(UserError, match=r"has no class folders: the images of train, val lie in no folder of a class"):
        opened(root)
    assert opened(root, format="classes").classes == ("train", "val")


def test_images_in_no_folder_are_counted(write_tree: WriteTree) -> None:
    root = write_tree({"photos": 5}) / "photos"
    with pytest.raises(UserError, match=r"holds 5 images, but in no folder of a class; it should hold train/CLASS"):
        opened(root)
