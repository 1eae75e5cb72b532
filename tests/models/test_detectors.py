from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_mobilenet_v3_large_320_fpn, maskrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

import understudy as us
from helpers.drawn_shapes import CLASSES, SIDE, drawn_batches, small_detector
from understudy.core.boxes import Boxes
from understudy.models import create_model
from understudy.models.detectors.one_stage import OneStage
from understudy.models.detectors.sources import BackboneWithPyramid, faster_rcnn, torchvision_detector
from understudy.models.detectors.two_stage import TwoStage
from understudy.runs.finders import sifted
from understudy.utils.errors import UserError

torch.set_num_threads(1)


def plain_network(seed: int = 0) -> FasterRCNN:
    """torchvision's own network on the parts of `small_detector`, with images as they come."""
    built = small_detector(seed)
    network = FasterRCNN(built.backbone, num_classes=CLASSES + 1)
    network.rpn, network.roi_heads = built.rpn, built.roi_heads
    network.transform = GeneralizedRCNNTransform(SIDE, SIDE, [0.0] * 3, [1.0] * 3, size_divisible=1)
    return network


def batch() -> tuple[Tensor, Boxes]:
    (drawn,) = drawn_batches(1, 3)
    return drawn.images, drawn.targets


def test_losses_are_those_of_torchvision_on_the_same_draws() -> None:
    network, (images, boxes) = plain_network().train(), batch()
    targets = [{"boxes": one.boxes, "labels": one.labels + 1} for one in boxes.each()]
    torch.manual_seed(3)
    expected = network(list(images), targets)

    detector = us.detector(network, CLASSES).train()
    torch.manual_seed(3)
    torch.rand(len(images))  # torchvision draws a size for each image first, of the one there is
    maps = detector(images)
    proposals = detector.propose(maps, images, boxes)
    found = detector.losses(proposals, detector.score(maps, proposals))

    assert sum(found.values()).item() == pytest.approx(sum(expected.values()).item(), rel=1e-6)
    assert len(found) == len(expected) == 4


def test_detections_are_those_of_torchvision_by_class_of_the_data() -> None:
    network, (images, _) = plain_network().eval(), batch()
    detector = us.detector(network, CLASSES).eval()
    with torch.no_grad():
        expected = network(list(images))
        found = detector.detections(detector(images), images, torch.tensor([[SIDE, SIDE]] * 3))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.boxes, theirs["boxes"])
        assert torch.equal(ours.labels, theirs["labels"] - 1)
        assert len(ours.scores) > 0


@pytest.mark.parametrize("first", ["trained", "evaluated"])
def test_boxes_are_pooled_alike_whatever_batch_came_first(first: str) -> None:
    images, boxes = batch()
    small = Boxes.packed([Boxes.of_image(one.boxes * 0.4, one.labels, (26, 26)) for one in boxes.each()])
    fresh, used = small_detector(0).train(), small_detector(0).train()
    with torch.no_grad():  # images that are padded to more than half as much again
        used.backbone.eval()
        if first == "trained":
            used.score(used(images), used.propose(used(images), images, small))
        else:
            used.eval().detections(used(images), images, small.sizes)
        found = []
        for detector in (fresh, used):
            detector.eval()
            maps = detector(images)
            found.append(detector.detections(maps, images, boxes.sizes))
    assert all(torch.equal(one.scores, other.scores) for one, other in zip(*found, strict=True))
    assert sum(len(one.scores) for one in found[0]) > 0


def test_weights_keep_torchvisions_names() -> None:
    network = plain_network()
    assert us.detector(network, CLASSES).state_dict().keys() == network.state_dict().keys()


def test_maps_are_named_by_stride_and_can_be_tapped_as_stages() -> None:
    detector, (images, _) = small_detector(), batch()
    maps = detector(images)
    assert {name: one.shape[2] for name, one in maps.items()} == {"p2": 16, "p3": 8, "p4": 4, "p5": 2, "p6": 1}
    assert [row["module"] for row in detector.feature_info] == [f"stages.{level}" for level in range(5)]
    anchors = detector.anchors(maps, images)
    assert [len(one) for one in anchors] == [3 * 16**2, 3 * 8**2, 3 * 4**2, 3 * 2**2, 3]


def test_columns_of_the_logits_are_laid_by_class_with_the_background_last() -> None:
    network, (images, boxes) = plain_network(), batch()
    plain, turned = us.detector(network, CLASSES), us.detector(network, 2, columns=[3, 1])
    maps = plain(images)
    proposals = plain.propose(maps, images, boxes)
    logits = plain.score(maps, proposals).own[0]
    assert torch.equal(plain.score(maps, proposals).logits, logits[:, [1, 2, 3, 0]])
    assert torch.equal(turned.score(maps, proposals).logits, logits[:, [3, 1, 0]])
    assert set(proposals.labels.tolist()) <= {0, 1, 2, CLASSES}
    num_rows = [len(rois) for rois in proposals.question.boxes]
    assert sum(num_rows) == len(proposals.labels) == len(logits)


def test_images_without_boxes_and_crowds_give_background_alone() -> None:
    detector, (images, boxes) = small_detector().train(), batch()
    crowd = boxes[:1].where(torch.tensor([0]))
    crowd = Boxes.of_image(crowd.boxes, crowd.labels, (SIDE, SIDE), crowd=torch.tensor([True]))
    empty = Boxes.packed([Boxes.none((SIDE, SIDE)), crowd, Boxes.none((40, 50))])
    maps = detector(images)
    proposals = detector.propose(maps, images, empty)
    losses = detector.losses(proposals, detector.score(maps, proposals))
    assert set(proposals.labels.tolist()) == {CLASSES}
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(rois[:, 2].max() <= 50 for rois in proposals.question.boxes[2:])


def test_a_mask_rcnn_is_trained_on_its_boxes() -> None:
    network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1, min_size=64)
    detector, (images, boxes) = us.detector(network, CLASSES).train(), batch()
    maps = detector(images[:1])
    proposals = detector.propose(maps, images[:1], boxes[:1])
    assert sum(detector.losses(proposals, detector.score(maps, proposals)).values()).isfinite()
    assert any(name.startswith("roi_heads.mask_head") for name in detector.state_dict())


def test_a_detector_over_mobilenet_is_as_large_as_the_papers() -> None:
    with torch.device("meta"):
        backbone = BackboneWithPyramid("mobilenetv2_100")
    assert [block.in_channels for block in (one[0] for one in backbone.fpn.inner_blocks)] == [24, 32, 96, 320]
    detector = faster_rcnn("mobilenetv2_100", 80)
    assert sum(p.numel() for p in detector.parameters()) / 1e6 == pytest.approx(19.16, abs=0.04)


def test_frozen_norms_learn_nothing() -> None:
    detector = small_detector(frozen_norms=True).train()
    images = batch()[0]
    before = {name: value.clone() for name, value in detector.backbone.state_dict().items()}
    detector(images)
    assert all(torch.equal(value, detector.backbone.state_dict()[name]) for name, value in before.items())
    assert not any("bn" in name for name, _ in detector.backbone.named_parameters())


def test_what_is_no_detector_is_refused_with_what_is() -> None:
    with pytest.raises(UserError, match=r"no detector 'fasterrcnn_resnet'; there are: .*fasterrcnn_resnet50_fpn"):
        torchvision_detector("fasterrcnn_resnet", 3)
    with pytest.raises(UserError, match="Linear cannot be distilled as a detector"):
        us.detector(nn.Linear(2, 2), 3)
    with pytest.raises(UserError, match="maps at strides 16, 16, 16"):
        BackboneWithPyramid("vit_tiny_patch16_224")
    with pytest.raises(UserError, match="columns names 2 columns of the detector's logits for 3 classes"):
        TwoStage(plain_network(), 3, columns=[1, 2])
    with pytest.raises(UserError, match="'box_nms_tresh' is unknown; did you mean box_nms_thresh"):
        small_detector(box_nms_tresh=0.3)


def test_the_head_pools_from_the_levels_that_torchvision_pools_from() -> None:
    """MobileNet's pyramid has a last level, "pool", that only proposes; it lies where other pyramids have a third."""
    torch.manual_seed(0)
    network = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=4).eval()
    network.rpn.score_thresh = 0.0
    network.roi_heads.box_roi_pool.canonical_scale = 16  # so that boxes of a small image are for the last level
    network.roi_heads.score_thresh = 0.0
    torch.nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight)
    images = torch.rand(1, 3, 128, 160)
    with torch.no_grad():
        maps = network.backbone(images)
        proposals, _ = network.rpn(ImageList(images, [(128, 160)]), maps)
        (theirs,), _ = network.roi_heads(maps, proposals, [(128, 160)])
        network.roi_heads.box_roi_pool.scales = None
        detector = TwoStage(network, 3).eval()
        (ours,) = detector.detections(detector(images), images)
        torch.testing.assert_close(ours.scores, theirs["scores"])
        torch.testing.assert_close(ours.boxes, theirs["boxes"])
        detector.rpn.nms_thresh, detector.rpn._post_nms_top_n = 1.0, {"testing": 10_000}  # as raw has it
        (ours,) = detector.detections(detector(images), images)
        boxes, scores = detector.raw(detector(images), images)
    found, _, sure = sifted(detector.sifting, boxes[0], scores[0])
    torch.testing.assert_close(sure, ours.scores)
    torch.testing.assert_close(found, ours.boxes)


def test_detectors_are_built_by_name() -> None:
    arguments = {"width": 8, "head_width": 16, "backbone": {"channels": [8, 8, 8, 8]}}
    network = create_model("fasterrcnn:resnet10t", num_classes=3, weights="none", kwargs=arguments)
    assert isinstance(network.module, TwoStage)
    assert network.mean == [0.485, 0.456, 0.406]
    fcos = create_model("fcos:resnet10t", num_classes=3, weights="none", kwargs={"width": 32})
    assert isinstance(fcos.module, OneStage)
    named = create_model("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", num_classes=3, weights="none")
    assert isinstance(named.module, TwoStage)
    with pytest.raises(UserError, match=r"retinanet has no model 'resnet10q'; did you mean .*resnet10t"):
        create_model("retinanet:resnet10q", num_classes=3)
    with pytest.raises(UserError, match="'widht' is unknown"):
        create_model("fasterrcnn:resnet10t", num_classes=3, weights="none", kwargs={"widht": 8})
