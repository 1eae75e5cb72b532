"""Hugging Face data sets with boxes: parquet files and folders of `save_to_disk`, in both forms of `objects`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from understudy.data import DataConfig, open_data
from understudy.data.sources.boxed import boxes_of_image, size_of_boxed
from understudy.data.sources.detect import task_at
from understudy.utils.errors import UserError

datasets = pytest.importorskip("datasets")

NAMES = ["cat", "dog"]
ROWS: list[dict[str, list[Any]]] = [
    {"bbox": [[1, 2, 10, 8], [-4, 0, 8, 5]], "category": [1, 0], "iscrowd": [0, 1], "area": [60.0, 20.0]},
    {"bbox": [], "category": [], "iscrowd": [], "area": []},
    {"bbox": [[3, 3, 0, 4], [0, 0, 30, 20]], "category": [0, 0], "iscrowd": [0, 0], "area": [0.0, 500.0]},
]


def pictures(count: int = 3) -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 20, 30, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]


def data_set(form: str = "struct of lists", *, category: Any = None, rows: Any = None, **further: Any) -> Any:
    kinds = {
        "bbox": datasets.List(datasets.Value("float32"), length=4),
        "category": category or datasets.ClassLabel(names=NAMES),
        "iscrowd": datasets.Value("int64"),
        "area": datasets.Value("float64"),
    }
    rows = ROWS if rows is None else rows
    if form == "list of structs":
        kind: Any = datasets.List(kinds)
        given: Any = [
            [dict(zip(row, values, strict=True)) for values in zip(*row.values(), strict=True)] for row in rows
        ]
    else:
        kind, given = {name: datasets.List(one) for name, one in kinds.items()}, rows
    extra = {name: datasets.Value("int64") for name in further}
    return datasets.Dataset.from_dict(
        {"image": pictures(len(rows)), "objects": given, **further},
        features=datasets.Features({"image": datasets.Image(), "objects": kind, **extra}),
    )


@pytest.mark.parametrize("form", ["struct of lists", "list of structs"])
@pytest.mark.parametrize("kept", ["parquet", "save_to_disk"])
def test_boxes_classes_crowds_and_sizes_are_read(form: str, kept: str, tmp_path: Path) -> None:
    made = data_set(form)
    if kept == "parquet":
        made.to_parquet(tmp_path / "train.parquet")
        made.to_parquet(tmp_path / "val.parquet")
    else:
        datasets.DatasetDict({"train": made, "validation": made}).save_to_disk(tmp_path)
    data = open_data(DataConfig(root=str(tmp_path)))
    assert data.have_boxes
    assert data.classes == ("cat", "dog")
    first, empty, last = (boxes_of_image(data.val, i) for i in range(3))
    assert first.boxes.tolist() == [[1, 2, 11, 10], [0, 0, 4, 5]]
    assert first.labels.tolist() == [1, 0]
    assert first.crowd.tolist() == [False, True]
    assert first.area.tolist() == [60, 20]
    assert len(empty.labels) == 0
    assert last.boxes.tolist() == [[0, 0, 30, 20]]  # the one without width is left out
    assert size_of_boxed(data.val, 2) == (20, 30)
    pixels = torch.from_numpy(np.array(pictures()[2])).permute(2, 0, 1)
    assert torch.equal(data.val.image(2), pixels)
    assert any("cut to the image: 1 box beyond it" in note for note in data.notes)
    assert any("left out: 1 box without width or height" in note for note in data.notes)


def test_categories_are_strings_or_numbers_with_holes(tmp_path: Path) -> None:
    rows = [{**row, "category": [[17, 90][one] for one in row["category"]]} for row in ROWS]
    data_set(category=datasets.Value("int64"), rows=rows).to_parquet(tmp_path / "train.parquet")
    assert open_data(DataConfig(root=str(tmp_path), val_rows="2:3", train_rows="0:2")).classes == ("17", "90")
    rows = [{**row, "category": [NAMES[one] for one in row["category"]]} for row in ROWS]
    data_set(category=datasets.Value("string"), rows=rows).to_parquet(tmp_path / "train.parquet")
    found = open_data(DataConfig(root=str(tmp_path), val_rows="0:1", train_rows="1:3"))
    assert found.classes == ("cat", "dog")
    assert boxes_of_image(found.val, 0).labels.tolist() == [1, 0]


def test_a_size_that_the_table_says_is_held_against_the_image(tmp_path: Path) -> None:
    data_set(width=[30, 30, 31], height=[20, 20, 20]).to_parquet(tmp_path / "train.parquet")
    data = open_data(DataConfig(root=str(tmp_path), val_rows="2:3", train_rows="0:2"))
    with pytest.raises(Exception, match="the image has 30 x 20 pixels, and its boxes are for 31 x 20"):
        data.val.image(0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"bbox": [[1, 2, 3]], "category": [0]}, r"\[1.0, 2.0, 3.0\] is no box \[x, y, width, height\]"),
        ({"bbox": [[1, 2, 3, float("nan")]], "category": [0]}, r".*nan\] is no box \[x, y, width, height\]"),
        ({"bbox": [[1, 2, float("inf"), 3]], "category": [0]}, r".*inf, 3.0\] is no box \[x, y, width, height\]"),
        ({"bbox": [[1, 2, 3, 4]], "category": [0, 1]}, "1 boxes and 2 categories; each box needs one"),
    ],
)
def test_what_is_no_box_is_refused_by_its_row(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    kinds = {"bbox": datasets.List(datasets.List(datasets.Value("float32")))}
    kinds["category"] = datasets.List(datasets.ClassLabel(names=NAMES))
    datasets.Dataset.from_dict(
        {"image": pictures(1), "objects": [row]},
        features=datasets.Features({"image": datasets.Image(), "objects": kinds}),
    ).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UserError, match=f"row 0 of train: {message}"):
        open_data(DataConfig(root=str(tmp_path)))


def test_a_column_of_labels_beside_boxes_is_what_is_meant_unless_boxes_are_named(tmp_path: Path) -> None:
    made = data_set().add_column("label", [0, 1, 0]).cast_column("label", datasets.ClassLabel(names=["in", "out"]))
    made.to_parquet(tmp_path / "train.parquet")
    rows = {"val_rows": "0:1", "train_rows": "1:3"}
    assert not open_data(DataConfig(root=str(tmp_path), **rows)).have_boxes
    named = DataConfig(root=str(tmp_path), format="parquet-boxes", label_column="objects", **rows)
    assert open_data(named).have_boxes


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_the_task_of_tables_is_known_by_their_columns(form: str, tmp_path: Path) -> None:
    def task_of(made: datasets.Dataset, name: str) -> str:
        root = tmp_path / name
        made.save_to_disk(root) if form == "saved" else made.to_parquet(root / "train.parquet")
        return task_at(DataConfig(root=str(root)))

    masked = datasets.Dataset.from_dict(
        {"image": pictures(2), "mask": pictures(2)},
        features=datasets.Features({"image": datasets.Image(), "mask": datasets.Image()}),
    )
    labelled = masked.remove_columns("mask").add_column("label", [0, 1])
    found = {name: task_of(made, name) for name, made in (("a", data_set()), ("b", masked), ("c", labelled))}
    assert found == {"a": "detection", "b": "segmentation", "c": "classification"}
