import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.images import jpeg_bytes
from understudy.data import DataConfig, open_data
from understudy.utils.errors import UserError

WriteTree = Callable[..., Path]


@pytest.fixture
def tiny(write_tree: WriteTree) -> Path:
    """Tiny-ImageNet with two classes, as its archive unpacks."""
    counts = {"train/n02/images": 2, "train/n01/images": 3, "val/images": 2, "test/images": 4}
    root = write_tree(counts, name="tiny-imagenet-200")
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\tcrane\n")
    (root / "val/val_annotations.txt").write_text("1.jpg\tn01\t0\t32\t44\t62\n0.jpg\tn02\t52\t55\t57\t59\n")
    (root / "train/n02/n02_boxes.txt").write_text("0.jpg\t0\t10\t63\t58\n")
    return root


@pytest.mark.parametrize("where", ["", "tiny-imagenet-200"])
def test_tiny_imagenet_is_read_as_its_archive_unpacks(tiny: Path, where: str) -> None:
    data = open_data(DataConfig(root=str(tiny.parent / where)))
    assert (data.name, data.classes) == ("tiny-imagenet", ("goldfish", "crane"))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert (data.val_origin, [data.val.name(i) for i in range(2)]) == (
        "val folder",
        ["val/images/0.jpg", "val/images/1.jpg"],
    )
    assert data.val.labels.tolist() == [1, 0]
    assert data.test is None


def test_val_image_that_is_not_listed_is_named(tiny: Path) -> None:
    (tiny / "val/images/7.jpg").write_bytes(jpeg_bytes(7))
    with pytest.raises(UserError, match=r"has 1 images whose class is not listed: 7\.jpg"):
        open_data(DataConfig(root=str(tiny)))


def test_other_folder_is_no_tiny_imagenet(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 1})
    with pytest.raises(UserError, match=r"is not the whole of Tiny-ImageNet: it lacks val/val_annotations\.txt"):
        open_data(DataConfig(root=str(root), format="tiny-imagenet"))


def test_a_tiny_imagenet_without_its_annotations_is_not_taken_for_class_folders(write_tree: WriteTree) -> None:
    root = write_tree({"train/n01/images": 1, "train/n02/images": 1, "val/images": 2})
    (root / "wnids.txt").write_text("n01\nn02\n")
    with pytest.raises(UserError, match=r"it lacks val/val_annotations\.txt; for class folders.*data\.format=folder"):
        open_data(DataConfig(root=str(root)))


@pytest.fixture
def cls_loc(write_tree: WriteTree) -> Path:
    """ImageNet's CLS-LOC archive with three classes, two of one word."""
    data = "ILSVRC/Data/CLS-LOC"
    counts = {f"{data}/train/{wnid}": 2 for wnid in ("n03", "n02", "n01")}
    root = write_tree({**counts, f"{data}/val": 2, f"{data}/test": 2}, name="imagenet")
    for i in range(2):
        (root / data / f"val/{i}.jpg").rename(root / data / f"val/ILSVRC2012_val_{i:08}.JPEG")
    (root / "LOC_synset_mapping.txt").write_text("n01 tench, Tinca tinca\nn02 crane\nn03 crane\n")
    lines = ["ILSVRC2012_val_00000001,n02 111 108 441 193", "ILSVRC2012_val_00000000,n03 1 2 3 4 n03 5 6 7 8"]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]))
    return root


def test_imagenet_is_read_as_its_archive_unpacks(cls_loc: Path) -> None:
    data = open_data(DataConfig(root=str(cls_loc)))
    assert (data.name, data.classes) == ("imagenet", ("tench", "crane (n02)", "crane (n03)"))
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.val.labels.tolist() == [2, 1]
    assert data.test is None


def test_imagenet_with_val_sorted_by_class_needs_no_list(cls_loc: Path) -> None:
    data = cls_loc / "ILSVRC/Data/CLS-LOC"
    for folder in (data / "val/n01", data / "val/n02"):
        folder.mkdir()
    for path in list((data / "val").glob("*.JPEG")):
        shutil.move(path, data / "val/n02")
    (data / "val/n01/0.jpg").write_bytes(jpeg_bytes(9))
    (cls_loc / "LOC_val_solution.csv").unlink()
    assert open_data(DataConfig(root=str(cls_loc))).val.labels.tolist() == [0, 1, 1]


def test_flat_val_without_its_list_is_refused(cls_loc: Path) -> None:
    (cls_loc / "LOC_val_solution.csv").unlink()
    with pytest.raises(UserError, match=r"val is not sorted by class, and .*LOC_val_solution\.csv is not there"):
        open_data(DataConfig(root=str(cls_loc)))
