from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.transform import GeneralizedRCNNTransform

import understudy as us
from helpers.drawn_shapes import CLASSES, SIDE, drawn_batches, small_detector, small_one_stage
from understudy.core.boxes import Boxes
from understudy.models.detectors.one_stage import OneStage
from understudy.models.detectors.sources import one_stage, torchvision_detector
from understudy.utils.errors import UserError

torch.set_num_threads(1)

FAMILIES = ("retinanet", "fcos")
families = pytest.mark.parametrize("family", FAMILIES)


def plain_network(family: str) -> RetinaNet | FCOS:
    """torchvision's own network, with images as they come."""
    network: RetinaNet | FCOS = copy.deepcopy(small_one_stage(family=family)._network[0])
    network.transform = GeneralizedRCNNTransform(SIDE, SIDE, [0.0] * 3, [1.0] * 3, size_divisible=1)
    network.score_thresh = 0.0
    network.topk_candidates = 20
    return network


def batch() -> tuple[Tensor, Boxes]:
    (drawn,) = drawn_batches(1, 3)
    return drawn.images, drawn.targets


@families
def test_losses_and_detections_are_those_of_torchvision(family: str) -> None:
    network, (images, boxes) = plain_network(family), batch()
    detector = us.detector(network, CLASSES).train()
    expected = network.train()(list(images), [{"boxes": one.boxes, "labels": one.labels} for one in boxes.each()])
    maps = detector(images)
    proposals = detector.propose(maps, images, boxes)
    found = detector.losses(proposals, detector.score(maps, proposals))
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(
        {name: loss.item() for name, loss in expected.items()}, rel=1e-6
    )
    network.eval()
    detector.eval()
    with torch.no_grad():
        theirs = network(list(images))
        ours = detector.detections(detector(images), images, torch.tensor([[SIDE, SIDE]] * 3))
    for one, other in zip(ours, theirs, strict=True):
        is_there = (other["boxes"][:, 2:] > other["boxes"][:, :2]).all(dim=1)  # it keeps those that it cut to nothing
        other = {name: part[is_there] for name, part in other.items()}
        torch.testing.assert_close(one.boxes, other["boxes"])
        assert torch.equal(one.labels, other["labels"])
        assert len(one.labels) > 0
    assert detector.state_dict().keys() == network.state_dict().keys()


@families
def test_rows_are_the_anchors_of_objects_and_as_many_others(family: str) -> None:
    detector, (images, boxes) = small_one_stage(family=family).train(), batch()
    maps = detector(images)
    proposals = detector.propose(maps, images, boxes)
    scored = detector.score(maps, proposals)
    num_objects = int(proposals.is_object.sum())
    assert len(proposals.labels) == 2 * num_objects
    assert (proposals.labels >= 0).tolist() == proposals.is_object.tolist()
    assert scored.logits.shape == (2 * num_objects, CLASSES)
    assert scored.activation == "sigmoid"
    # The label of a row is that of the box which its anchor overlaps most.
    asked = proposals.question
    anchors = torch.cat(detector.anchors(maps, images))
    for row in range(num_objects):
        image, anchor = divmod(int(asked.places[row]), asked.num_anchors)
        own = boxes.each()[image]
        centre = (anchors[anchor, :2] + anchors[anchor, 2:]) / 2
        near = (own.boxes[:, :2] - SIDE / 2 <= centre).all(dim=1) & (centre <= own.boxes[:, 2:] + SIDE / 2).all(dim=1)
        assert proposals.labels[row] in own.labels[near]


@families
def test_logits_by_level_lie_at_the_places_of_their_anchors(family: str) -> None:
    detector, (images, _) = small_one_stage(family=family).eval(), batch()
    maps = detector(images)
    proposals = detector.propose(maps, images, batch()[1])
    scored = detector.score(maps, proposals)
    per_place = 9 if family == "retinanet" else 1
    assert {name: tuple(one.shape[1:]) for name, one in scored.levels.items()} == {
        name: (per_place * CLASSES, *one.shape[2:]) for name, one in maps.items()
    }
    assert list(scored.levels) == ["p3", "p4", "p5", "p6", "p7"]
    whole = scored.own["cls_logits"]
    first = scored.levels["p3"]
    assert torch.equal(first[1, :, 2, 3].reshape(per_place, CLASSES), whole[1, (2 * 8 + 3) * per_place :][:per_place])


def test_a_batch_without_boxes_has_a_row_of_background() -> None:
    detector, (images, _) = small_one_stage().train(), batch()
    empty = Boxes.packed([Boxes.none((SIDE, SIDE))] * 3)
    maps = detector(images)
    proposals = detector.propose(maps, images, empty)
    assert proposals.labels.tolist() == [-1]
    losses = detector.losses(proposals, detector.score(maps, proposals))
    assert all(loss.isfinite() for loss in losses.values())


def test_columns_of_the_logits_may_be_others_than_the_classes() -> None:
    network, (images, boxes) = plain_network("retinanet"), batch()
    turned = us.detector(network, 2, columns=[2, 0])
    maps = turned(images)
    two = boxes.where(boxes.labels < 2)
    proposals = turned.propose(maps, images, two)
    scored = turned.score(maps, proposals)
    whole = scored.own["cls_logits"].flatten(0, 1)[proposals.question.places]
    assert torch.equal(scored.logits, whole[:, [2, 0]])
    found = turned.eval().detections(maps, images, torch.tensor([[SIDE, SIDE]] * 3))
    assert {label for one in found for label in one.labels.tolist()} == {0, 1}


def test_detectors_of_other_families_are_no_teachers_of_heads() -> None:
    (images, boxes), one, two = batch(), small_one_stage(), small_detector()
    of_one = one.propose(one(images), images, boxes)
    of_two = two.propose(two(images), images, boxes)
    with pytest.raises(UserError, match="take a teacher of the student's family"):
        two.answer(two(images), of_one)
    with pytest.raises(UserError, match="the student has others"):
        one.answer(one(images), of_two)
    fcos = small_one_stage(family="fcos")
    with pytest.raises(UserError, match="the student has others"):
        fcos.answer(fcos(images), of_one)


def test_torchvisions_names_are_detectors_of_as_many_columns_as_classes() -> None:
    for name in ("retinanet_resnet50_fpn", "fcos_resnet50_fpn"):
        detector = torchvision_detector(name, CLASSES)
        assert isinstance(detector, OneStage)
        assert detector.columns == (0, 1, 2)
    with pytest.raises(UserError, match="'score_tresh' is unknown; did you mean score_thresh"):
        one_stage("fcos", "resnet10t", 3, score_tresh=0.3)
    with pytest.raises(UserError, match="norm channels in 32 groups"):
        one_stage("fcos", "resnet10t", 3, width=16)
