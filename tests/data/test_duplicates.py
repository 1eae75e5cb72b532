import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from helpers.images import jpeg_bytes
from understudy.data import DataConfig, dataset_splits, open_data

WriteTree = Callable[..., Path]


@pytest.mark.parametrize("cache", ["auto", False])
def test_same_file_under_two_labels_is_counted_and_named(write_tree: WriteTree, cache: object) -> None:
    root = write_tree({"train/cat": 3, "train/dog": 3, "val/cat": 1})
    shutil.copy(root / "train/cat/1.jpg", root / "train/dog/copy.jpg")
    assert open_data(DataConfig(root=str(root), cache=cache)).notes[0] == (
        "train holds 1 image under more than one label: train/cat/1.jpg (cat) = train/dog/copy.jpg (dog)"
    )


def test_same_file_twice_under_one_label_is_no_matter(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 3, "train/dog": 3, "val/cat": 1})
    shutil.copy(root / "train/cat/1.jpg", root / "train/cat/copy.jpg")
    assert not [note for note in open_data(DataConfig(root=str(root))).notes if "label" in note]


@pytest.mark.parametrize("cache", ["auto", False])
def test_training_image_in_val_or_test_is_a_leak(write_tree: WriteTree, cache: object) -> None:
    root = write_tree({"train/cat": 3, "train/dog": 3, "val/cat": 1, "val/dog": 1, "test/dog": 2})
    shutil.copy(root / "train/cat/1.jpg", root / "val/cat/copy.jpg")
    shutil.copy(root / "train/cat/1.jpg", root / "val/dog/copy.jpg")
    shutil.copy(root / "train/dog/0.jpg", root / "test/dog/copy.jpg")
    leaks = [note for note in open_data(DataConfig(root=str(root), cache=cache)).notes if "as well" in note]
    assert leaks == [
        "2 images of val are in train as well (1 under another label): val/cat/copy.jpg = train/cat/1.jpg; "
        "val/dog/copy.jpg = train/cat/1.jpg",
        "1 image of test is in train as well: test/dog/copy.jpg = train/dog/0.jpg",
    ]


def test_test_split_that_is_also_val_is_counted_once(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 3, "test/cat": 1})
    shutil.copy(root / "train/cat/1.jpg", root / "test/cat/copy.jpg")
    notes = open_data(DataConfig(root=str(root), val="test")).notes
    assert [note[:42] for note in notes if "as well" in note] == ["1 image of val is in train as well: test/c"]


def test_copy_that_the_seed_holds_out_is_a_leak(write_tree: WriteTree) -> None:
    root = write_tree({"cat": 10})
    for i in range(1, 10):
        shutil.copy(root / "cat/0.jpg", root / f"cat/{i} copy.jpg")
    data = open_data(DataConfig(root=str(root)))
    copies = sum("copy" in data.val.name(i) or "/0.jpg" in data.val.name(i) for i in range(len(data.val)))
    assert data.notes[0].startswith(f"{copies} images of val are in train as well: ")


def test_rows_of_a_parquet_file_are_compared_too(tmp_path: Path) -> None:
    cells = [{"bytes": jpeg_bytes(seed), "path": f"{i}.jpg"} for i, seed in enumerate([1, 2, 1, 3, 3])]
    pq.write_table(pa.table({"image": cells, "label": [0, 1, 1, 0, 0]}), tmp_path / "train.parquet")
    notes = open_data(DataConfig(root=str(tmp_path), val_rows="4:5")).notes
    assert notes[:2] == (
        "train holds 1 image under more than one label: row 0 of train (0.jpg) (0) = row 2 of train (2.jpg) (1)",
        "1 image of val is in train as well: row 4 of train (4.jpg) = row 3 of train (3.jpg)",
    )


def test_images_of_a_tensor_are_compared_by_their_pixels() -> None:
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    images[4] = images[0]
    parts = [torch.utils.data.TensorDataset(images[rows], torch.tensor(rows) % 2) for rows in ([0, 1, 2], [3, 4])]
    notes = dataset_splits(*parts).notes
    assert notes[0] == "1 image of val is in train as well: sample 1 = sample 0"


@pytest.mark.slow
def test_known_pairs_of_tiny_imagenet_are_found(shared_tiny_imagenet: Path) -> None:
    notes = open_data(DataConfig(root=str(shared_tiny_imagenet))).notes
    assert notes[0].startswith("train holds 4 images under more than one label: row 6393 of train ")
    assert notes[1].startswith("1 image of val is in train as well (1 under another label): row 3565 of val ")
