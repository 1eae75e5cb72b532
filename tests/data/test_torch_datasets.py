from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder, VisionDataset
from torchvision.transforms import v2

from helpers.images import jpeg_bytes
from understudy.data import (
    DataConfig,
    NoAugment,
    TensorSource,
    augment_for,
    dataset_source,
    dataset_splits,
    train_loader,
)
from understudy.utils.errors import UserError


class Samples(Dataset[Any]):
    """A list of (image, label) as a user would write it: no targets, no transform."""

    def __init__(self, samples: list[tuple[Any, int]]) -> None:
        self.samples_ = samples

    def __len__(self) -> int:
        return len(self.samples_)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.samples_[i]


def test_pil_images_numpy_greys_and_uint8_tensors_become_rgb() -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    samples = [(Image.fromarray(grey), 0), (grey, 1), (torch.from_numpy(grey)[None].expand(3, -1, -1), 2)]
    source = dataset_source(Samples(samples))
    assert source.labels.tolist() == [0, 1, 2]
    assert all(source.image(i).tolist() == [grey.tolist()] * 3 for i in range(3))


def test_float_images_stay_as_they_are_and_unaugmented() -> None:
    images = torch.randn(6, 3, 10, 10)  # normalised by their owner: outside [0,1]
    source = dataset_source(TensorDataset(images, torch.arange(6)))
    assert isinstance(source, TensorSource)
    assert isinstance(augment_for(DataConfig(root="x"), source), NoAugment)
    (batch,) = train_loader(source, DataConfig(root="x"), seed=0, image_size=10).epoch(1)
    assert torch.equal(batch.images, images[batch.indices])


def test_subset_takes_the_labels_of_its_rows() -> None:
    whole = TensorDataset(torch.rand(6, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
    source = dataset_source(Subset(whole, [5, 0]))
    assert source.labels.tolist() == [2, 0]
    assert torch.equal(source.image(0), whole.tensors[0][5])


def with_1_in_0(label: int) -> int:
    """Of eight samples with the labels 0, 0, 1, 1, 2, 2, 3, 3 neither the first, the middle nor the last changes."""
    return 0 if label == 1 else label


class InOneTransform(VisionDataset):
    """As torchvision's VOCDetection: one transform of image and label."""

    def __init__(self, transforms: Callable[..., Any]) -> None:
        super().__init__("unread", transforms)
        self.targets = [0, 0, 1, 1, 2, 2, 3, 3]

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> Any:
        assert self.transforms is not None
        return self.transforms(torch.zeros(3, 4, 4), self.targets[i])


class RelabelledSubset(Subset[Any]):
    def __getitem__(self, i: Any) -> Any:
        image, label = super().__getitem__(i)
        return image, with_1_in_0(int(label))

    def __getitems__(self, numbers: list[int]) -> list[Any]:
        return [self[i] for i in numbers]


class RelabelledTensors(TensorDataset):
    def __getitem__(self, i: Any) -> Any:
        return self.tensors[0][i], with_1_in_0(int(self.tensors[1][i]))


class Halved(Samples):
    """A data set whose `targets` are not what it gives, the middle one and the last among them."""

    def __init__(self, samples: list[tuple[Any, int]]) -> None:
        super().__init__(samples)
        self.targets = [label for _, label in samples]

    def __getitem__(self, i: int) -> tuple[Any, int]:
        image, label = self.samples_[i]
        return image, int(label) // 2


def tensors(kind: type[TensorDataset] = TensorDataset) -> TensorDataset:
    return kind(torch.rand(8, 3, 4, 4), torch.arange(8) // 2)


@pytest.mark.parametrize(
    "relabelled",
    [
        lambda root: ImageFolder(root, target_transform=with_1_in_0),
        lambda root: Subset(ImageFolder(root, target_transform=with_1_in_0), range(8)),
        lambda _: InOneTransform(lambda image, label: (image, with_1_in_0(label))),
        lambda _: RelabelledSubset(tensors(), range(8)),
        lambda _: tensors(RelabelledTensors),
        lambda _: Halved(list(tensors())),
        lambda _: Subset(Halved(list(tensors())), range(8)),
    ],
)
def test_labels_are_those_that_the_data_set_gives(
    write_tree: Callable[..., Path], relabelled: Callable[[Path], Any]
) -> None:
    dataset = relabelled(write_tree({"cat": 2, "cow": 2, "dog": 2, "hen": 2}))
    given = [label for _, label in dataset]
    assert dataset_source(dataset).labels.tolist() == given != [0, 0, 1, 1, 2, 2, 3, 3]


def test_targets_of_another_number_than_the_samples_are_not_theirs() -> None:
    dataset = Samples([(torch.zeros(3, 4, 4), label) for label in (0, 1, 0)])
    dataset.targets = [0, 1]  # type: ignore[attr-defined]
    assert dataset_source(dataset).labels.tolist() == [0, 1, 0]


def test_targets_spare_the_reading_of_all_samples_and_survive_a_damaged_file(write_tree: Callable[..., Path]) -> None:
    root = write_tree({"cat": 20, "dog": 20})
    (root / "cat/0.jpg").write_bytes(b"no image")
    read = []

    def load(path: str) -> Any:
        read.append(path)
        return Image.open(path).convert("RGB")

    source = dataset_source(ImageFolder(root, transform=v2.ToImage(), loader=load))
    assert source.labels.tolist() == [0] * 20 + [1] * 20
    assert len(read) <= 3


def test_a_label_that_only_a_damaged_file_could_tell_is_asked_for(write_tree: Callable[..., Path]) -> None:
    root = write_tree({"cat": 3})
    (root / "cat/1.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cat/1\.jpg: cannot identify .* so its label is not known; take it away"):
        dataset_source(ImageFolder(root, target_transform=with_1_in_0))


@pytest.mark.parametrize("label", [{"boxes": []}, np.zeros(3), None])
def test_labels_that_are_no_numbers_are_refused(label: Any) -> None:
    with pytest.raises(UserError, match=r"one class number for each image is wanted"):
        dataset_source(Samples([(torch.zeros(3, 4, 4), label)]))


def test_random_transform_is_drawn_anew_each_view_and_repeats_with_the_seed(write_tree: Callable[..., Path]) -> None:
    root = write_tree({"cat": 4, "dog": 4}, size=(20, 20))
    transform = v2.Compose([v2.RandomCrop(12), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    source = dataset_source(ImageFolder(root, transform=transform))
    config = DataConfig(root="x", batch_size=8)
    views = []
    for workers in (0, 2):
        loader = train_loader(source, config.model_copy(update={"workers": workers}), seed=0, image_size=12)
        views += [next(loader.epoch(epoch)) for epoch in (1, 2)]
    by_index = [view.images[view.indices.argsort()] for view in views]
    assert not torch.equal(by_index[0], by_index[1])
    assert torch.equal(by_index[0], by_index[2])
    assert torch.equal(by_index[1], by_index[3])


def test_data_set_without_a_transform_is_decoded_once(write_tree: Callable[..., Path]) -> None:
    root = write_tree({"cat": 4, "dog": 4}, size=(20, 20))
    data = dataset_splits(ImageFolder(root), name="pets")
    assert isinstance(data.train, TensorSource)
    assert (data.classes, data.native_size, data.val_origin) == (("cat", "dog"), 20, "held out by seed 0")


class NoisySubset(Subset[Any]):
    """Augments what another data set stores."""

    transform = None

    def __getitem__(self, i: Any) -> Any:
        image, label = super().__getitem__(i)
        return image + torch.rand(image.shape), label

    def __getitems__(self, numbers: list[int]) -> list[Any]:
        return [self[i] for i in numbers]


class NoisyTensors(TensorDataset):
    def __getitem__(self, i: Any) -> Any:
        return self.tensors[0][i] + torch.rand(()), self.tensors[1][i]


@pytest.mark.parametrize("noisy", [NoisySubset(tensors(), range(8)), tensors(NoisyTensors)])
@pytest.mark.parametrize("wrapped", [lambda noisy: noisy, lambda noisy: Subset(noisy, range(8))])
def test_augmentation_of_a_subclass_is_drawn_anew_each_view(noisy: Any, wrapped: Callable[[Any], Any]) -> None:
    data = dataset_splits(wrapped(noisy), val=tensors())
    assert not torch.equal(data.train.image(0), data.train.image(0))
    assert torch.equal(data.val.image(0), data.val.image(0))


def test_small_samples_that_do_not_fit_into_memory_are_refused_by_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.data.cache.free_memory_bytes", lambda: 0)
    with pytest.raises(
        UserError, match=r"^train: the images of TensorDataset would take .*; data\.cache: true decodes"
    ):
        dataset_splits(tensors())
    assert dataset_splits(tensors(), config=DataConfig(root="own", cache=True)).native_size == 4
    assert dataset_splits(tensors(), config=DataConfig(root="own", cache=False)).native_size is None


def test_given_val_and_test_are_used() -> None:
    parts = [TensorDataset(torch.rand(n, 3, 4, 4), torch.arange(n) % 2) for n in (6, 4, 2)]
    data = dataset_splits(*parts)
    assert (len(data.train), len(data.val), data.val_origin, data.classes) == (6, 4, "val split", ("0", "1"))
    assert data.test is not None
    assert len(data.test) == 2


def test_unreadable_file_of_a_users_data_set_is_skipped(write_tree: Callable[..., Path]) -> None:
    root = write_tree({"cat": 4}, size=(20, 20))
    dataset = ImageFolder(root, transform=v2.ToImage())
    (root / "cat/2.jpg").write_bytes(jpeg_bytes(0, (20, 20))[:-200])
    loader = train_loader(dataset_source(dataset), DataConfig(root="x", workers=0), seed=0, image_size=20)
    (batch,) = loader.epoch(1)
    assert len(batch.images) == 4
    assert "2.jpg: " in loader.skipped[0]


def test_unreadable_files_of_a_data_set_that_is_decoded_once_are_told_of_or_stopped_at(
    write_tree: Callable[..., Path],
) -> None:
    root = write_tree({"cat": 4, "dog": 4}, size=(20, 20))
    (root / "dog/2.jpg").write_bytes(jpeg_bytes(0, (20, 20))[:-200])
    dataset = ImageFolder(root)
    whole = ImageFolder(write_tree({"cat": 2, "dog": 2}, size=(20, 20), name="val"))
    found = dataset_splits(dataset, whole)
    assert len(found.train) == 7
    assert any(note.startswith("1 image cannot be read: train: ") and "2.jpg" in note for note in found.notes)
    with pytest.raises(UserError, match=r"1 image cannot be read: train: .*2\.jpg"):
        dataset_splits(dataset, whole, config=DataConfig(root="x", on_bad_image="stop"))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_problem_names_the_data_set_that_it_is_about(split: str) -> None:
    good = TensorDataset(torch.rand(6, 3, 8, 8), torch.arange(6) % 3)
    bad = TensorDataset(torch.rand(2, 3, 8, 8), torch.tensor([-1, 0]))
    given = {"train": good, "val": good, "test": good, split: bad}
    with pytest.raises(UserError, match=rf"^{split}: TensorDataset: label -1 of row 0 is outside"):
        dataset_splits(**given)
    with pytest.raises(UserError, match=rf"^{split}: list is empty"):
        dataset_splits(**{**given, split: []})


def test_label_outside_the_classes_is_named() -> None:
    dataset = TensorDataset(torch.rand(3, 3, 4, 4), torch.tensor([0, 5, 1]))
    with pytest.raises(UserError, match=r"TensorDataset: label 5 of row 1 is outside 0\.\.1 \(2 classes"):
        dataset_source(dataset, ["cat", "dog"])


def test_labels_that_are_words_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"a label is 'cat'; class numbers 0\.\.C-1 are wanted, and the names as classes"
    ):
        dataset_source(Samples([(torch.zeros(3, 4, 4), "cat")]))  # type: ignore[list-item]
    rows = datasets.Dataset.from_dict({"image": [[0]], "label": ["dog"]})
    with pytest.raises(UserError, match="a label is 'dog'"):
        dataset_source(rows)


def test_images_of_another_shape_are_refused() -> None:
    source = dataset_source(Samples([(torch.zeros(4, 4, 3), 0)]))
    with pytest.raises(UserError, match=r"an image has shape \(4, 4, 3\); \(3,H,W\), .* is wanted"):
        source.image(0)


def test_stream_without_a_length_is_refused() -> None:
    with pytest.raises(UserError, match="generator is no data set with a length and samples by number"):
        dataset_source(sample for sample in [])
