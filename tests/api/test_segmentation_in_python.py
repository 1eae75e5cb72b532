"""Segmentation composed by hand: a loader of images and masks of one's own, any network of maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

import understudy as us
from helpers.masks import masks_folder
from helpers.shapes import CLASSES, Segmenter, labelled_batch
from understudy.data.augment.dense import masked_image
from understudy.data.sources.shapes import drawn_shapes
from understudy.data.torch_datasets.masks import masked_splits


def test_a_loader_of_masks_trains_and_is_evaluated() -> None:
    batch = labelled_batch()
    pairs = [(batch.images, batch.targets.long())] * 2
    cwd = us.methods.CWD.Config(student_stages=("output.logits",), teacher_stages=("output.logits",))
    trained = us.trainer(
        task=us.Segmentation(num_classes=CLASSES),
        teacher=Segmenter(1),
        students=[us.StudentSpec(Segmenter(0)), us.StudentSpec(Segmenter(0), method=cwd)],
        sample=pairs[0],
    )
    history = trained.fit(pairs, epochs=2, val=pairs)
    assert set(history) == {"alone", "cwd"}
    assert set(history["cwd"][1]["val"]) == {"miou", "pixel_accuracy", "loss"}
    assert history["cwd"][1]["train"]["distill"] < history["cwd"][0]["train"]["distill"]


def test_a_folder_of_masks_is_distilled_between_networks_of_ones_own(tmp_path: Path) -> None:
    settings = {"data": {"workers": 0, "image_size": 32}, "threads": 1}
    folder = masks_folder(tmp_path / "data", train=4, val=2)
    result = us.distill(
        Segmenter(1),
        Segmenter(0),
        train=folder,
        method=us.methods.DIST.Config(on={"main": 1.0, "aux": 0.4}),
        epochs=1,
        batch_size=4,
        out=tmp_path / "run",
        quiet=True,
        allow_weak_teacher=True,
        settings=settings,
    )
    assert repr(result).startswith("Result(miou=")
    assert result.student(torch.zeros(1, 3, 20, 28))["logits"].shape == (1, CLASSES, 5, 7)


class Pairs(Dataset):
    """Images and masks, mirrored together half of the time."""

    def __init__(self, count: int, seed: int) -> None:
        self.images, self.masks = drawn_shapes(count, seed=seed, side=32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = self.images[i].float() / 255, self.masks[i].long()
        return (image.flip(-1), mask.flip(-1)) if torch.rand(()) < 0.5 else (image, mask)


def test_a_data_set_of_images_and_masks_is_distilled(tmp_path: Path) -> None:
    given = {"train": Pairs(4, 1), "val": Pairs(2, 2), "epochs": 1, "batch_size": 4, "quiet": True}
    given |= {"allow_weak_teacher": True, "settings": {"data": {"workers": 0}, "threads": 1}}
    result = us.distill(Segmenter(1), Segmenter(0), out=tmp_path / "run", classes=list("abcd"), **given)
    assert result.results.data.classes == ("a", "b", "c", "d")
    assert result.results.headline_metric == "miou"
    with pytest.raises(us.UserError, match="these samples have masks: name their classes in order"):
        us.distill(Segmenter(1), Segmenter(0), **given)


def test_transforms_that_draw_move_image_and_mask_alike() -> None:
    source = masked_splits(
        {"train": Pairs(4, 1), "val": Pairs(2, 2)}, list("abcd"), name="it", config=us.DataConfig(root="it")
    )
    plain, masks = drawn_shapes(4, seed=1, side=32)
    for number in range(8):
        image, mask = masked_image(source.train, number % 4)
        is_turned = not torch.equal(image, plain[number % 4].float() / 255)
        assert torch.equal(mask, masks[number % 4].flip(-1) if is_turned else masks[number % 4])


def test_torchvisions_segmenters_are_taken_as_they_are() -> None:
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    batch = labelled_batch(size=(32, 32))
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)
    trained = us.trainer(
        task=us.Segmentation(num_classes=CLASSES),
        teacher=Segmenter(1),
        students=[us.StudentSpec(network, method=us.methods.KD.Config(temperature=1.0))],
        sample=(batch.images, batch.targets),
    )
    record = trained.fit([(batch.images, batch.targets)], epochs=1)["kd"][0]
    assert record["train"]["distill"] > 0


def test_maps_are_no_labels_of_a_classifier() -> None:
    batch = labelled_batch()
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, CLASSES))
    trained = us.trainer(
        task=us.Classification(num_classes=CLASSES),
        students=[us.StudentSpec(network)],
        sample=(batch.images, batch.targets),
    )
    with pytest.raises(us.UserError, match=r"the labels of a batch have shape \(3, 16, 24\); \(B,\), or \(B,C\) mixed"):
        trained.fit([(batch.images, batch.targets)], epochs=1)
