"""SSD: torchvision's losses and detections on images of one size, and rows of a softmax with the background last."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

import understudy as us
from helpers.drawn_shapes import CLASSES, SIDE, drawn_batches, small_one_stage
from understudy.core.boxes import Boxes
from understudy.methods import METHODS
from understudy.models import create_model, save_student
from understudy.models.detectors.deployed import RawBoxes
from understudy.models.detectors.one_stage import OneStage
from understudy.models.detectors.ssd import SingleShot
from understudy.models.export.agreement import boxes_difference
from understudy.runs.finders import sifted
from understudy.utils.errors import UserError

torch.set_num_threads(1)


class TwoMaps(nn.Module):
    """Maps at strides 8 and 16, of 8 and 12 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = [8, 12]
        self.first = nn.Conv2d(3, 8, 9, stride=8, padding=4)
        self.second = nn.Conv2d(8, 12, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        first = self.first(images).relu()
        return OrderedDict([("0", first), ("1", self.second(first))])


def plain_network(seed: int = 0) -> SSD:
    """torchvision's own, images as they come; 4 anchors at positions of the first map, 6 at those of the second."""
    torch.manual_seed(seed)
    anchors = DefaultBoxGenerator([[2], [2, 3]])
    return SSD(TwoMaps(), anchors, (SIDE, SIDE), CLASSES + 1, image_mean=[0.0] * 3, image_std=[1.0] * 3)


def batch() -> tuple[Tensor, Boxes]:
    (drawn,) = drawn_batches(1, 3)
    return drawn.images, drawn.targets


def test_losses_and_detections_are_those_of_torchvision() -> None:
    network, (images, boxes) = plain_network(), batch()
    detector = us.detector(network, CLASSES).train()
    expected = network.train()(list(images), [{"boxes": one.boxes, "labels": one.labels + 1} for one in boxes.each()])
    maps = detector(images)
    assert list(maps) == ["p3", "p4"]
    proposals = detector.propose(maps, images, boxes)
    scored = detector.score(maps, proposals)
    found = detector.losses(proposals, scored)
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(
        {name: loss.item() for name, loss in expected.items()}, rel=1e-6
    )
    detector.eval()
    with torch.no_grad():
        theirs = network.eval()(list(images))
        ours = detector.detections(detector(images), images, torch.tensor([[SIDE, SIDE]] * 3))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.boxes, other["boxes"])
        assert torch.equal(one.labels, other["labels"] - 1)
        assert len(one.labels) > 0


def test_rows_are_anchors_of_objects_and_as_many_of_the_background_which_is_last() -> None:
    detector, (images, boxes) = us.detector(plain_network(), CLASSES), batch()
    maps = detector(images)
    proposals = detector.propose(maps, images, boxes)
    scored = detector.score(maps, proposals)
    count = int(proposals.is_object.sum())
    assert scored.logits.shape == (2 * count, CLASSES + 1)
    assert scored.activation == "softmax"
    assert (proposals.labels[~proposals.is_object] == CLASSES).all()
    assert set(proposals.labels[proposals.is_object].tolist()) == set(boxes.labels.tolist())
    everything = detector.head(list(maps.values()))["cls_logits"].flatten(0, 1)
    asked = everything[proposals.question.places]
    assert torch.equal(scored.logits[:, -1], asked[:, 0])
    assert torch.equal(scored.logits[:, :-1], asked[:, 1:])
    anchors = detector.anchors(maps, images)
    assert [len(one) for one in anchors] == [8 * 8 * 4, 4 * 4 * 6]
    with pytest.raises(UserError, match="take a teacher of the student's family"):
        small_one_stage().score(small_one_stage()(images), proposals)


def test_images_of_another_size_are_stretched_and_boxes_stay_in_their_pixels() -> None:
    detector = us.detector(plain_network(), CLASSES).eval()
    images = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        maps = detector(images)
        alike = detector(F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", align_corners=False))
        (first, _) = detector.detections(maps, images, torch.tensor([[90, 120], [96, 128]]))
    assert all(torch.equal(maps[name], alike[name]) for name in alike)
    assert list(maps) == ["p3", "p4"]
    assert SIDE < first.boxes[:, 2].max() <= 120
    assert first.boxes[:, 3].max() <= 90


@pytest.mark.parametrize(
    "detector",
    [us.detector(plain_network(), CLASSES), small_one_stage(), small_one_stage(family="fcos")],
    ids=["ssd", "retinanet", "fcos"],
)
def test_nothing_is_found_in_the_padding(detector: OneStage) -> None:
    detector, images = detector.eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for part in detector.modules():
            if isinstance(part, nn.Conv2d) and part.bias is not None:
                part.bias.zero_()
        maps = detector(images)
        whole, found = detector.detections(maps, images, torch.tensor([[64, 64], [64, 20]]))
    assert (whole.boxes[:, 0] > 20).any()
    assert len(found.boxes) > 0
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_raw_boxes_sifted_are_the_detections() -> None:
    detector, (images, _) = us.detector(plain_network(), CLASSES).eval(), batch()
    with torch.no_grad():
        expected = [(one.boxes, one.labels, one.scores) for one in detector.detections(detector(images), images)]
        boxes, scores = RawBoxes(detector)(images)
    assert detector.sifting is not None
    found = [sifted(detector.sifting, *one) for one in zip(boxes, scores, strict=True)]
    assert boxes_difference(found, expected, SIDE) < 1e-4


@pytest.mark.parametrize(
    ("name", "side", "level"),
    [("ssdlite320_mobilenet_v3_large", 320, "p4"), pytest.param("ssd300_vgg16", 300, "p3", marks=pytest.mark.slow)],
)
def test_torchvisions_own_are_built_by_name_and_their_weights_load_into_its_classes(
    name: str, side: int, level: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made = create_model(f"torchvision:{name}", num_classes=3, weights="none")
    assert isinstance(made.module, SingleShot)
    save_student(tmp_path / "student", made, ["a", "b", "c"])
    plain = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4)
    transform = torchvision.models.get_model(name, weights=None, weights_backbone=None).transform
    assert (made.mean, made.std) == (pytest.approx(transform.image_mean), pytest.approx(transform.image_std))
    plain.load_state_dict(load_file(tmp_path / "student" / "model.safetensors"))  # strict: the same keys
    student = us.load_student(tmp_path / "student")
    image = torch.rand(1, 3, side, side)
    with torch.no_grad():
        (expected,) = plain.eval()(list(image))
        maps = student(image)
        (found,) = maps.detector.detections(maps, image)
    assert next(iter(maps)) == level
    assert len(found.scores) == len(expected["scores"]) > 0
    torch.testing.assert_close(found.scores, expected["scores"], rtol=1e-4, atol=1e-5)


def test_a_student_learns_from_a_teacher_of_its_family_and_maps_of_any() -> None:
    (drawn,) = drawn_batches(1, 3)
    teacher = us.LiveTeacher(us.detector(plain_network(1), CLASSES))
    trainer = us.trainer(
        task=us.Detection(CLASSES),
        teacher=teacher,
        students=[
            us.StudentSpec(us.detector(plain_network(), CLASSES), method=[METHODS[name].Config()], name=name)
            for name in ("kd", "dist", "fgfi")
        ],
        sample=drawn,
    )
    history = trainer.fit([drawn], epochs=1)
    assert list(history) == ["kd", "dist", "fgfi"]
