"""Segmenters by name: deeplabv3:, psp: and fpn: over a backbone of timm's, and torchvision's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import timm
import torchvision
from timm.models import PretrainedCfg
from torch import nn

from understudy.core.image_size import ImageSize
from understudy.models.blueprint import Blueprint, refusals_said
from understudy.models.hub import WeightsUnavailableError, first_line, hub_within_reach, url_within_reach
from understudy.models.segmentation.segmenter import CoarseSegmenter, HeadName, Segmenter, backbone_of, backbone_stride

__all__ = ["is_segmenter", "segmenter_blueprint", "torchvision_segmenter_blueprint"]

_OF_HEAD = ("output_stride", "width", "aux", "finest")  # arguments of Segmenter; others go to the backbone


def segmenter_blueprint(
    head: HeadName, name: str, num_classes: int, image_size: ImageSize | None, kwargs: Mapping[str, Any]
) -> Blueprint:
    """A head over a backbone of timm's, whose published weights are what "pretrained" means. Any image size works."""
    config = timm.get_pretrained_cfg(name) or PretrainedCfg()
    own = {key: kwargs[key] for key in _OF_HEAD if key in kwargs}
    others = {key: value for key, value in kwargs.items() if key not in _OF_HEAD}
    # A pyramid has a level at every stride; the other heads look at the last map, which is to be large.
    wanted = own.get("output_stride", 32 if head == "fpn" else None)
    with refusals_said(f"{head}:{name}", kwargs):
        stride, others = backbone_stride(name, others, wanted)
    own = {**own, "output_stride": stride}
    if head == "fpn":
        own.setdefault("aux", False)

    def built(*, pretrained: bool = False) -> nn.Module:
        if pretrained and not config.has_weights:
            raise WeightsUnavailableError("none were published")
        with refusals_said(f"{head}:{name}", kwargs):
            if not pretrained:
                return Segmenter(backbone_of(name, others), head, num_classes, **own)
            with hub_within_reach():
                return Segmenter(backbone_of(name, others, pretrained=True), head, num_classes, **own)

    return Blueprint(
        build=built,
        pretrained=partial(built, pretrained=True),
        normalisation=(tuple(config.mean), tuple(config.std)),
        prefers=None,
        resize_to=None,
        kwargs=dict(kwargs),
    )


def is_segmenter(name: str) -> bool:
    """Whether torchvision has a segmenter of that name."""
    return name in torchvision.models.list_models(module=torchvision.models.segmentation)


def torchvision_segmenter_blueprint(name: str, num_classes: int, kwargs: Mapping[str, Any]) -> Blueprint:
    """A segmenter of torchvision's, its logits at their own stride. Any image size works."""
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    told = {} if name.startswith("lraspp") else {"aux_loss": True}

    def built() -> nn.Module:
        with refusals_said(f"torchvision:{name}", kwargs):
            return CoarseSegmenter(
                torchvision.models.get_model(
                    name, weights=None, weights_backbone=None, num_classes=num_classes, **{**told, **kwargs}
                )
            )

    def pretrained() -> nn.Module:
        weights = torchvision.models.get_model_weights(name).DEFAULT
        url_within_reach(weights.url)
        try:
            published = CoarseSegmenter(torchvision.models.get_model(name, weights=weights, progress=False, **kwargs))
        except (OSError, RuntimeError) as error:  # the download, or its checksum
            raise WeightsUnavailableError(first_line(error)) from error
        if num_classes == len(weights.meta["categories"]):
            return published
        module, own = built(), {}
        for key, value in module.state_dict().items():
            there = published.state_dict().get(key)
            own[key] = value if there is None or there.shape != value.shape else there
        module.load_state_dict(own)
        return module

    return Blueprint(
        build=built,
        pretrained=pretrained,
        normalisation=(tuple(transforms.mean), tuple(transforms.std)),
        prefers=None,
        resize_to=None,
        kwargs=dict(kwargs),
    )
