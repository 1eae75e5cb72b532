from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.images import jpeg_bytes
from understudy.data import DataConfig, TensorSource, open_data, train_loader
from understudy.utils.errors import UserError

WriteTree = Callable[..., Path]


def folders(write_tree: WriteTree, size: tuple[int, int] = (16, 16)) -> tuple[str, str]:
    labelled = write_tree({"train/cat": 3, "train/dog": 3, "val/cat": 1, "val/dog": 1})
    unlabelled = write_tree({"holiday": 2, "holiday/2023/more": 2}, size, name="photos")
    for i, path in enumerate(sorted(unlabelled.rglob("*.jpg"))):
        path.write_bytes(jpeg_bytes(1000 + i, size))
    return str(labelled), str(unlabelled)


def test_unlabelled_images_come_after_the_training_images(write_tree: WriteTree) -> None:
    root, unlabelled = folders(write_tree)
    data = open_data(DataConfig(root=root, unlabelled=unlabelled))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, -1, -1, -1, -1]
    assert [data.train.name(i) for i in (5, 6, 8)] == ["train/dog/2.jpg", "holiday/0.jpg", "holiday/2023/more/0.jpg"]
    assert (data.num_unlabelled, len(data.val), data.classes) == (4, 2, ("cat", "dog"))


def test_numbers_of_the_data_are_those_of_its_labelled_images(write_tree: WriteTree) -> None:
    root, unlabelled = folders(write_tree)
    alone, together = open_data(DataConfig(root=root)), open_data(DataConfig(root=root, unlabelled=unlabelled))
    assert together.mean == pytest.approx(alone.mean, abs=1e-7)
    assert together.std == pytest.approx(alone.std, abs=1e-7)
    assert not [note for note in together.notes if "no image of" in note]


def test_unlabelled_images_are_brought_to_the_size_of_small_ones(write_tree: WriteTree) -> None:
    root, unlabelled = folders(write_tree, size=(40, 24))
    data = open_data(DataConfig(root=root, unlabelled=unlabelled))
    assert isinstance(data.train, TensorSource)
    assert (data.native_size, data.train.image(7).shape) == (16, (3, 16, 16))
    assert data.notes[0].endswith(
        "photos join train, for the distillation loss alone, resized and cropped to 16 pixels"
    )


def test_large_unlabelled_images_stay_as_they_are(write_tree: WriteTree) -> None:
    root, unlabelled = folders(write_tree, size=(40, 24))
    data = open_data(DataConfig(root=root, unlabelled=unlabelled, cache=False))
    assert (data.native_size, data.train.image(7).shape) == (None, (3, 40, 24))


def test_parts_of_train_are_taken_before_unlabelled_images_join(write_tree: WriteTree) -> None:
    root, unlabelled = folders(write_tree)
    data = open_data(DataConfig(root=root, unlabelled=unlabelled, per_class=1))
    assert data.train.labels.tolist() == [0, 1, -1, -1, -1, -1]


def test_batches_hold_unlabelled_images_under_minus_one(write_tree: WriteTree) -> None:
    root, unlabelled = folders(write_tree)
    config = DataConfig(root=root, unlabelled=unlabelled, batch_size=10)
    (batch,) = train_loader(open_data(config), config, seed=0, image_size=16).epoch(1)
    assert batch.indices is not None
    assert torch.equal(batch.targets == -1, batch.indices >= 6)


def test_unlabelled_images_that_cannot_be_used_are_named(write_tree: WriteTree) -> None:
    root, unlabelled = folders(write_tree)
    (Path(unlabelled) / "notes.txt").write_text("hello")
    (Path(unlabelled) / "holiday/0.jpg").write_bytes(jpeg_bytes(1)[:-20])
    data = open_data(DataConfig(root=root, unlabelled=unlabelled))
    assert data.num_unlabelled == 3
    assert any(note.startswith("1 file is no image: photos/notes.txt (skipped") for note in data.notes)
    assert any(note.startswith("1 image cannot be read: holiday/0.jpg: ") for note in data.notes)


def test_unlabelled_image_that_is_measured_on_is_a_leak(write_tree: WriteTree) -> None:
    root, unlabelled = folders(write_tree)
    (Path(unlabelled) / "same.jpg").write_bytes((Path(root) / "val/dog/0.jpg").read_bytes())
    notes = open_data(DataConfig(root=root, unlabelled=unlabelled)).notes
    assert "1 image of val is in train as well: val/dog/0.jpg = same.jpg" in notes


@pytest.mark.parametrize(
    ("name", "text"),
    [("phots", r"data\.unlabelled: there is nothing at .*; did you mean photos\?"), ("empty", "holds no image")],
)
def test_folder_without_images_is_refused(write_tree: WriteTree, name: str, text: str) -> None:
    root, unlabelled = folders(write_tree)
    Path(unlabelled).with_name("empty").mkdir()
    with pytest.raises(UserError, match=text):
        open_data(DataConfig(root=root, unlabelled=str(Path(unlabelled).with_name(name))))
