from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.images import jpeg_bytes
from understudy.data import DataConfig, open_data
from understudy.utils.errors import UserError

WriteTree = Callable[..., Path]


def test_train_and_val_folders_are_used_as_they_are(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 1, "test/dog": 2})
    data = open_data(DataConfig(root=str(root)))
    assert (data.name, data.classes, data.val_origin) == ("pets", ("cat", "dog"), "val folder")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    assert data.test is not None
    assert data.test.labels.tolist() == [1, 1]
    assert data.native_size == 16


def test_test_folder_is_left_alone_without_a_val_folder(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 5, "train/dog": 5, "test/cat": 2, "test/dog": 2})
    data = open_data(DataConfig(root=str(root), split_seed=3))
    assert data.val_origin == "held out by seed 3"
    assert (len(data.train), len(data.val)) == (8, 2)
    assert data.test is not None
    assert len(data.test) == 4


def test_one_tree_is_split_by_seed_class_by_class(write_tree: WriteTree) -> None:
    root = write_tree({"cat": 10, "dog": 20})
    data = open_data(DataConfig(root=str(root)))
    assert data.test is None
    assert torch.bincount(data.val.labels).tolist() == [2, 4]
    names = {data.train.name(i) for i in range(24)} | {data.val.name(i) for i in range(6)}
    assert len(names) == 30


def test_images_below_a_class_folder_belong_to_it(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat/images": 2, "train/dog/images/more": 3, "val/cat": 1})
    assert open_data(DataConfig(root=str(root))).train.labels.tolist() == [0, 0, 1, 1, 1]


def test_files_that_are_no_images_are_named_and_skipped(write_tree: WriteTree) -> None:
    root = write_tree({"roses": 5, "tulips": 5})
    (root / "tulips/.DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / "roses/broken.jpg").write_bytes(b"<html>not found</html>")
    data = open_data(DataConfig(root=str(root)))
    assert data.notes[0] == (
        "2 files are no images: roses/broken.jpg, tulips/.DS_Store (skipped; `data.on_bad_image: stop` to refuse)"
    )
    assert len(data.train) + len(data.val) == 10


def test_files_that_are_no_images_are_refused_on_demand(write_tree: WriteTree) -> None:
    root = write_tree({"roses": 5, "tulips": 5})
    (root / "roses/empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 file is no image: roses/empty\.png; take them away, or leave them out"):
        open_data(DataConfig(root=str(root), on_bad_image="stop"))


def test_truncated_image_is_found_when_small_images_are_decoded(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 4, "val/cat": 1})
    (root / "train/cat/1.jpg").write_bytes(jpeg_bytes(1)[:-20])
    data = open_data(DataConfig(root=str(root)))
    assert [data.train.name(i) for i in range(len(data.train))] == [f"train/cat/{i}.jpg" for i in (0, 2, 3)]
    assert data.notes[0].startswith("1 image cannot be read: train/cat/1.jpg: ")
    with pytest.raises(UserError, match=r"1 image cannot be read: train/cat/1\.jpg: "):
        open_data(DataConfig(root=str(root), on_bad_image="stop"))


def test_images_of_several_sizes_are_streamed(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 3, "val/cat": 1})
    (root / "train/cat/2.jpg").write_bytes(jpeg_bytes(1, (20, 20)))
    data = open_data(DataConfig(root=str(root)))
    assert (data.native_size, data.mean) == (None, None)
    assert data.train.image(2).shape == (3, 20, 20)
    with pytest.raises(UserError, match=r"data\.cache: true needs images of one size"):
        open_data(DataConfig(root=str(root), cache=True))


def test_small_images_that_do_not_fit_into_memory_are_refused_so_that_a_recipe_always_means_the_same_pixels(
    write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(write_tree({"train/cat": 128, "val/cat": 1}, size=(64, 64)))
    num_bytes = 128 * 3 * 64 * 64
    monkeypatch.setattr("understudy.data.cache.free_memory_bytes", lambda: 2 * num_bytes)
    assert open_data(DataConfig(root=root)).native_size == 64
    monkeypatch.setattr("understudy.data.cache.free_memory_bytes", lambda: 2 * num_bytes - 1)
    with pytest.raises(UserError) as caught:
        open_data(DataConfig(root=root))
    assert str(caught.value) == (
        "the pets train images would take 2 MiB of memory decoded, more than half of the 3 MiB that are free; "
        "data.cache: true decodes them once all the same, data.cache: false reads them from disk every epoch (then at "
        "data.image_size, or the model's own input size)"
    )
    assert open_data(DataConfig(root=root, cache=True)).native_size == 64
    assert open_data(DataConfig(root=root, cache=False)).native_size is None


def test_images_of_several_sizes_are_streamed_whatever_memory_is_free(
    write_tree: WriteTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_tree({"train/cat": 3, "val/cat": 3}, size=(80, 80))
    monkeypatch.setattr("understudy.data.cache.free_memory_bytes", lambda: 0)
    assert open_data(DataConfig(root=str(root))).native_size is None


def test_cache_false_streams_small_images_too(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 3, "val/cat": 1})
    assert open_data(DataConfig(root=str(root), cache=False)).native_size is None


def test_empty_class_folder_is_named(write_tree: WriteTree) -> None:
    root = write_tree({"cat": 2, "dog": 0})
    with pytest.raises(UserError, match=r"1 class folder holds no image: .*pets/dog; put images there or take"):
        open_data(DataConfig(root=str(root)))


def test_folders_that_systems_leave_are_no_classes(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    for left in ("__MACOSX/cat", "train/__MACOSX", "train/@eaDir", "val/.cache"):
        (root / left).mkdir(parents=True)
        (root / left / "._0.png").write_bytes(b"resource fork")
    assert open_data(DataConfig(root=str(root))).classes == ("cat", "dog")


def test_class_in_val_that_train_lacks_is_named(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/cow": 1})
    with pytest.raises(
        UserError, match=r"val has 1 class that train lacks: cow; train has: cat, dog\. Put images into train"
    ):
        open_data(DataConfig(root=str(root)))


def test_val_without_train_is_refused(write_tree: WriteTree) -> None:
    root = write_tree({"val/cat": 1})
    with pytest.raises(UserError, match=r"has val but no train; put CLASS/\*\.jpg into .*train"):
        open_data(DataConfig(root=str(root)))


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match=r"has no images; it should hold train/CLASS/\*\.jpg or CLASS/\*\.jpg"):
        open_data(DataConfig(root=str(tmp_path)))


def test_absent_folder_is_refused_with_the_nearest_name(write_tree: WriteTree) -> None:
    root = write_tree({"cat": 1}, name="flowers")
    with pytest.raises(UserError, match=r"data\.root: there is nothing at .*flwers; did you mean flowers\?"):
        open_data(DataConfig(root=str(root.with_name("flwers"))))


def test_file_that_is_no_parquet_is_refused_as_root(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"images\.zip is neither a folder nor a \.parquet file"):
        open_data(DataConfig(root=str(tmp_path / "images.zip")))
