from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from image_files import jpeg_bytes
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from understudy.config import UserError
from understudy.data import (
    DataConfig,
    NoAugment,
    TensorSource,
    augment_for,
    dataset_source,
    dataset_splits,
    train_loader,
)


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
