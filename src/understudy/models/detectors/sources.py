"""Detectors by name: fasterrcnn: over a backbone of timm's, and torchvision's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import timm
import torchvision
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from understudy.models.detectors.base import Detector
from understudy.models.detectors.one_stage import OneStage
from understudy.models.detectors.query import QueryDetector
from understudy.models.detectors.ssd import SingleShot
from understudy.models.detectors.two_stage import TwoStage
from understudy.models.detectors.yolo import YoloDetector
from understudy.models.detectors.yolo_package import is_of_package
from understudy.utils.errors import UserError, unknown_name

__all__ = ["BackboneWithPyramid", "detector", "faster_rcnn", "one_stage", "torchvision_detector"]

_STRIDES = {"fasterrcnn": (4, 8, 16, 32), "retinanet": (8, 16, 32), "fcos": (8, 16, 32)}  # of the backbone's maps
_RATIOS = (0.5, 1.0, 2.0)
_SIZES = (32, 64, 128, 256, 512)  # of anchors by level, Lin et al. 2017


class BackboneWithPyramid(nn.Module):
    """A timm backbone and a feature pyramid: (B,3,H,W) to maps of one width by name, "0" the finest, "pool" the last.

    Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.

    Args:
        name: of timm's.
        strides: of the backbone's maps that it is built on; behind 4, 8, 16 and 32 comes a last level by pooling,
            behind 8, 16 and 32 two by convolutions, as Faster R-CNN and one-stage detectors have it.
        width: channels of every level.
        pretrained: whether timm's published weights are loaded.
        frozen_norms: whether the backbone's batch norms keep their statistics and weights, as detectors that start
            from published weights have it: a step has too few images for statistics.
        kwargs: further arguments of the backbone.

    Raises:
        UserError: the network has no maps at these strides.
    """

    def __init__(
        self,
        name: str,
        *,
        strides: Sequence[int] = (4, 8, 16, 32),
        width: int = 256,
        pretrained: bool = False,
        frozen_norms: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        try:
            whole: Any = timm.create_model(name, features_only=True, **kwargs)
            there: list[int] = whole.feature_info.reduction()
        except (RuntimeError, AttributeError) as error:  # what timm says where a network gives no maps
            raise UserError(f"{name} cannot carry a pyramid: timm gives no maps of it ({error})") from None
        places = [place for place, stride in enumerate(there) if stride in strides]
        if [there[place] for place in places] != list(strides):
            raise UserError(
                f"{name} cannot carry a pyramid: it has maps at strides {', '.join(map(str, there))}, and "
                f"{', '.join(map(str, strides))} are wanted; take a convolutional network or a hierarchical transformer"
            )
        body: Any = timm.create_model(name, features_only=True, out_indices=places, pretrained=pretrained, **kwargs)
        channels: list[int] = body.feature_info.channels()
        self.body: nn.Module = freeze_batch_norm_2d(body) if frozen_norms else body  # type: ignore[no-untyped-call]
        last = LastLevelMaxPool() if strides[0] == 4 else LastLevelP6P7(width, width)
        self.fpn = FeaturePyramidNetwork(channels, width, extra_blocks=last)
        self.out_channels = width  # by which torchvision builds its heads

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The levels."""
        maps = self.body(images)
        levels: dict[str, Tensor] = self.fpn({str(place): one for place, one in enumerate(maps)})
        return levels


def faster_rcnn(
    name: str,
    num_classes: int,
    *,
    width: int = 256,
    head_width: int = 1024,
    anchor_sizes: Sequence[int] = _SIZES,
    pretrained: bool = False,
    frozen_norms: bool | None = None,
    backbone: Mapping[str, Any] | None = None,
    **settings: Any,
) -> TwoStage:
    """Faster R-CNN over a backbone of timm's with a feature pyramid.

    `mobilenetv2_100` taps 24, 32, 96 and 320 channels, as the student of ReviewKD's and DKD's tables does.

    Args:
        name: of timm's.
        num_classes: C of the data, no background among them.
        width: channels of the pyramid's levels.
        head_width: of the box head's two layers.
        anchor_sizes: a side in pixels for each of the five levels.
        pretrained: whether the backbone starts from timm's published weights.
        frozen_norms: whether the backbone's batch norms stay as they are; None: where it is pretrained.
        backbone: further arguments of the backbone.
        settings: further arguments of torchvision's FasterRCNN (box_batch_size_per_image, rpn_post_nms_top_n_train).

    Raises:
        UserError: no such backbone, or an argument that torchvision does not have.
    """
    frozen = pretrained if frozen_norms is None else frozen_norms
    body = BackboneWithPyramid(
        name,
        strides=_STRIDES["fasterrcnn"],
        width=width,
        pretrained=pretrained,
        frozen_norms=frozen,
        **(backbone or {}),
    )
    pool = MultiScaleRoIAlign(featmap_names=["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
    anchors = AnchorGenerator(tuple((size,) for size in anchor_sizes), (_RATIOS,) * len(anchor_sizes))
    head = torchvision.models.detection.faster_rcnn.TwoMLPHead(width * 7 * 7, head_width)
    predictor = torchvision.models.detection.faster_rcnn.FastRCNNPredictor(head_width, num_classes + 1)
    parts = {"rpn_anchor_generator": anchors, "box_roi_pool": pool, "box_head": head, "box_predictor": predictor}
    _refuse_unknown(f"fasterrcnn:{name}", settings, FasterRCNN, without=("backbone", "num_classes", *parts))
    return TwoStage(FasterRCNN(body, **parts, **settings), num_classes)


def one_stage(
    family: Literal["retinanet", "fcos"],
    name: str,
    num_classes: int,
    *,
    width: int = 256,
    anchor_sizes: Sequence[int] | None = None,
    pretrained: bool = False,
    frozen_norms: bool | None = None,
    backbone: Mapping[str, Any] | None = None,
    **settings: Any,
) -> OneStage:
    """RetinaNet or FCOS over a backbone of timm's with a feature pyramid.

    Args:
        family: which of the two.
        name: of timm's.
        num_classes: C of the data.
        width: channels of the pyramid's levels and of the heads.
        anchor_sizes: a side in pixels for each of the five levels; RetinaNet has three anchors of it, of 1, 2^(1/3)
            and 2^(2/3) times this, in each of three shapes, FCOS one, a square. None: 32 to 512, or the strides 8 to
            128 (FCOS).
        pretrained: whether the backbone starts from timm's published weights.
        frozen_norms: whether the backbone's batch norms stay as they are; None: where it is pretrained.
        backbone: further arguments of the backbone.
        settings: further arguments of torchvision's class (score_thresh, topk_candidates).

    Raises:
        UserError: no such backbone, or an argument that torchvision does not have.
    """
    if family == "fcos" and width % 32:
        raise UserError(f"fcos:{name}: its heads norm channels in 32 groups; take a width of 32, 64, ..., got {width}")
    frozen = pretrained if frozen_norms is None else frozen_norms
    strides, kind = _STRIDES[family], FCOS if family == "fcos" else RetinaNet
    body = BackboneWithPyramid(
        name, strides=strides, width=width, pretrained=pretrained, frozen_norms=frozen, **(backbone or {})
    )
    is_fcos = family == "fcos"
    sides = anchor_sizes or ((8, 16, 32, 64, 128) if is_fcos else _SIZES)
    steps, ratios = ((0.0,), (1.0,)) if is_fcos else ((0.0, 1 / 3, 2 / 3), _RATIOS)
    anchors = AnchorGenerator(tuple(tuple(int(side * 2**step) for step in steps) for side in sides), (ratios,) * 5)
    _refuse_unknown(f"{family}:{name}", settings, kind, without=("backbone", "num_classes", "anchor_generator"))
    return OneStage(kind(body, num_classes, anchor_generator=anchors, **settings), num_classes)


def _refuse_unknown(model: str, settings: Mapping[str, Any], family: type, *, without: Sequence[str]) -> None:
    """Refuse arguments that a family of torchvision's would swallow without a word."""
    known = [name for name in inspect.signature(family).parameters if name not in (*without, "kwargs")]
    for name in settings:
        if name not in known:
            raise UserError(f"{model}: argument {name!r} is {unknown_name(name, known)}")


def torchvision_detector(name: str, num_classes: int, **kwargs: Any) -> Detector:
    """A detector of torchvision's by name, with random weights and a column for each class.

    Raises:
        UserError: torchvision has none of that name, or one of a family that has no adapter.
    """
    known = torchvision.models.list_models(module=torchvision.models.detection)
    if name not in known:
        raise UserError(f"torchvision has no detector {name!r}; there are: {', '.join(known)}")
    has_background = "rcnn" in name or name.startswith("ssd")
    told = {"weights": None, "weights_backbone": None, "num_classes": num_classes + has_background}
    return detector(torchvision.models.get_model(name, **{**told, **kwargs}), num_classes)


def detector(network: nn.Module, num_classes: int, *, columns: Sequence[int] | None = None) -> Detector:
    """A network of torchvision's or of transformers' as a detector, on the same weights.

    Args:
        network: as its library builds it.
        num_classes: C of the data.
        columns: which column of its logits is class c; None: 1..C behind the background where that is the first, else
            0..C-1.

    Raises:
        UserError: a family that has no adapter.
    """
    if isinstance(network, GeneralizedRCNN):
        return TwoStage(network, num_classes, columns=columns)
    if isinstance(network, SSD):
        return SingleShot(network, num_classes, columns=columns)
    if isinstance(network, RetinaNet | FCOS):
        return OneStage(network, num_classes, columns=columns)
    if is_of_package(network):
        return YoloDetector(network, num_classes, columns=columns)
    if hasattr(getattr(network, "config", None), "model_type"):
        return QueryDetector(network, num_classes, columns=columns)
    raise UserError(
        f"{type(network).__name__} cannot be distilled as a detector; those that can are torchvision's Faster R-CNN, "
        "Mask R-CNN (its boxes), RetinaNet, FCOS and SSD, and transformers' DETR, RT-DETR and D-FINE"
    )
