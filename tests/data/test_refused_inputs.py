"""What is not there yet, in words: rectangles, several labels of one image, colours of what has none."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import understudy as us
from helpers.images import jpeg_bytes
from understudy.data import DataConfig, dataset_splits, from_plain_loader, open_data, train_loader
from understudy.utils.errors import UserError


@pytest.mark.parametrize("size", [[48], [48, 64, 3], [], "large", [48, "wide"], {"height": 48}, 4.5])
def test_an_image_size_that_is_none_is_refused_with_the_way_out(size: object) -> None:
    with pytest.raises(UserError, match=r"image_size +is a number of pixels, or \[height, width\] of them, got"):
        DataConfig.read({"root": "x", "image_size": size}, what="data")


@pytest.mark.parametrize("size", [0, -3, 9_000, [48, 0], [48, 10**9]])
def test_an_image_size_out_of_range_is_refused(size: object) -> None:
    with pytest.raises(UserError, match=r"image_size +is 1 to 8,192 pixels a side, got"):
        DataConfig.read({"root": "x", "image_size": size}, what="data")


def test_a_column_of_several_labels_is_refused(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": jpeg_bytes(i), "path": None} for i in range(2)], "labels": [[0, 1], [1]]})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"column 'labels' holds list<.*multi-label classification\) are not there yet"):
        open_data(DataConfig(root=str(tmp_path)))


@pytest.mark.parametrize("targets", [torch.tensor([[1.0, 1, 0], [0, 1, 0]]), torch.tensor([[1, 1], [0, 1]])])
def test_a_loader_of_several_labels_is_refused_and_one_of_distributions_taken(targets: torch.Tensor) -> None:
    images = torch.zeros(2, 3, 4, 4)
    with pytest.raises(UserError, match=r"targets of shape .* adds up to 2\); several labels of one image"):
        list(from_plain_loader([(images, targets)]))
    (batch,) = from_plain_loader([(images, torch.tensor([[0.25, 0.75], [1, 0]]))])
    assert batch.targets.tolist() == [[0.25, 0.75], [1, 0]]


def grey() -> TensorDataset:
    return TensorDataset(torch.rand(8, 2, 8, 8), torch.arange(8) % 2)


def test_colours_of_images_that_are_not_three_channels_are_refused() -> None:
    config = DataConfig.read({"root": "x", "augment": {"name": "crop_flip", "color_jitter": 0.4}}, what="data")
    with pytest.raises(
        UserError, match=r"data\.augment: color_jitter is about colours, and these images have 2 channels"
    ):
        train_loader(dataset_splits(grey(), grey()), config, seed=0, image_size=8)


def test_two_channels_can_be_erased() -> None:
    config = DataConfig.read({"root": "x", "augment": {"name": "crop_flip", "erasing": 1.0}, "workers": 0}, what="data")
    (batch,) = train_loader(dataset_splits(grey(), grey()), config, seed=0, image_size=8).epoch(1)
    assert batch.images.shape == (8, 2, 8, 8)


def test_what_is_hardly_meant_is_said() -> None:
    config = DataConfig(root="x", batch_size=5000, image_size=7)
    notes = dataset_splits(grey(), grey(), config=config).notes
    assert any("data.batch_size 5,000 is more than the 8 training images" in note for note in notes)
    assert any("data.image_size 7" in note for note in notes)


def test_several_labels_are_refused_where_a_trainer_evaluates_too() -> None:
    trainer = us.trainer(
        task=us.Classification(num_classes=4),
        teacher=None,
        students=us.StudentSpec(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), name="student"),
        sample=(torch.zeros(2, 3, 2, 2), torch.tensor([0, 1])),
    )
    images = torch.zeros(3, 3, 2, 2)
    with pytest.raises(UserError, match="several labels of one image"):
        trainer.evaluate([(images, torch.ones(3, 4))])
    assert len(trainer.evaluate([(images, torch.eye(4)[:3])])["student"].labels) == 3
