from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image

from understudy.data import DataConfig, open_data
from understudy.utils.errors import UserError


def write(folder: Path, names: list[str] | None, labels: list[int], first: int = 0) -> str:
    """A train.parquet whose image i is of the colour first + i."""
    images = [Image.new("RGB", (8, 8), (first + i, 0, 0)) for i in range(len(labels))]
    label: Any = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features(image=datasets.Image(), label=label)
    folder.mkdir()
    rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    rows.to_parquet(folder / "train.parquet")
    return str(folder)


def test_two_roots_are_one_data_set_in_the_order_given(tmp_path: Path) -> None:
    roots = [write(tmp_path / "a", ["cat", "dog"], [1, 0]), write(tmp_path / "b", ["cat", "dog"], [0, 1], first=2)]
    data = open_data(DataConfig(root=",".join(roots), val_rows="3:4"))
    assert (data.name, data.classes, data.train.labels.tolist()) == ("a+b", ("cat", "dog"), [1, 0, 0])
    assert [int(data.train.image(i)[0, 0, 0]) for i in range(3)] == [0, 1, 2]
    assert data.train.name(2) == "b: row 0 of train"


def test_root_with_more_classes_names_them_all(tmp_path: Path) -> None:
    some, all_names = ["cat", "dog"], ["cow", "cat", "dog"]
    roots = [write(tmp_path / "a", some, [1, 0]), write(tmp_path / "b", all_names, [0, 1, 2], first=2)]
    data = open_data(DataConfig(root=roots, val_rows="4:5"))  # a list, as a recipe may have it
    assert (data.classes, data.train.labels.tolist()) == (("cow", "cat", "dog"), [2, 1, 0, 1])


def test_roots_with_other_classes_are_refused(tmp_path: Path) -> None:
    roots = [write(tmp_path / "a", ["cat", "dog", "hen"], [1, 0]), write(tmp_path / "b", ["cat", "cow"], [0, 1])]
    with pytest.raises(
        UserError, match=r"data\.root: b has classes that a lacks: cow; data sets are put together only"
    ):
        open_data(DataConfig(root=roots))


def test_absent_one_of_several_roots_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "a", None, [0, 1])
    with pytest.raises(UserError, match=r"data\.root: there is nothing at .*gone"):
        open_data(DataConfig(root=[root, str(tmp_path / "gone")]))


def test_comma_in_a_name_is_a_comma(tmp_path: Path) -> None:
    root = write(tmp_path / "cats, dogs", None, [0, 1] * 5)
    assert len(open_data(DataConfig(root=root)).train) == 8


def test_held_out_split_is_of_all_roots_together(tmp_path: Path) -> None:
    roots = [write(tmp_path / name, None, [0, 1] * 10, first=first) for name, first in (("a", 0), ("b", 100))]
    data = open_data(DataConfig(root=roots))
    assert torch.bincount(data.val.labels).tolist() == [4, 4]
