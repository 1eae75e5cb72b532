"""Segmentation composed by hand: a loader of images and masks of one's own, any network of maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import understudy as us
from helpers.masks import masks_folder
from helpers.shapes import CLASSES, Segmenter, labelled_batch


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
