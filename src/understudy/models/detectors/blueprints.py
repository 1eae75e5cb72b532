"""How detectors are built by name: fasterrcnn:, retinanet: and fcos: over a backbone of timm's, and torchvision's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import timm
import torchvision
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg
from torch import nn

from understudy.core.image_size import ImageSize
from understudy.models.blueprint import Blueprint, Normalisation, refusals_said
from understudy.models.detectors.sources import detector, faster_rcnn, one_stage, torchvision_detector
from understudy.models.hub import WeightsUnavailableError, first_line, hub_within_reach, url_within_reach

__all__ = ["FAMILIES", "detector_blueprint", "is_detector", "torchvision_detector_blueprint", "torchvision_detectors"]

FamilyName = Literal["fasterrcnn", "retinanet", "fcos"]
_BUILDERS: dict[FamilyName, Callable[..., nn.Module]] = {
    "fasterrcnn": faster_rcnn,
    "retinanet": partial(one_stage, "retinanet"),
    "fcos": partial(one_stage, "fcos"),
}
FAMILIES: tuple[FamilyName, ...] = tuple(_BUILDERS)
_NORMALISATIONS: dict[str, Normalisation] = {  # of torchvision's that do not take ImageNet's
    "ssd300_vgg16": ((0.48235, 0.45882, 0.40784), (1 / 255,) * 3),
    "ssdlite320_mobilenet_v3_large": ((0.5,) * 3, (0.5,) * 3),
}
_NO_CLASS = ("__background__", "N/A")  # columns of torchvision's weights for COCO that belong to none


def detector_blueprint(
    family: FamilyName, name: str, num_classes: int, image_size: ImageSize | None, kwargs: Mapping[str, Any]
) -> Blueprint:
    """A detector over a backbone of timm's, whose published weights are what "pretrained" means. Any size works."""
    config = timm.get_pretrained_cfg(name) or PretrainedCfg()

    def built(*, pretrained: bool = False) -> nn.Module:
        if pretrained and not config.has_weights:
            raise WeightsUnavailableError("none were published")
        with refusals_said(f"{family}:{name}", kwargs):
            if not pretrained:
                return _BUILDERS[family](name, num_classes, **kwargs)
            with hub_within_reach():
                return _BUILDERS[family](name, num_classes, pretrained=True, **kwargs)

    return Blueprint(
        build=built,
        pretrained=partial(built, pretrained=True),
        normalisation=(tuple(config.mean), tuple(config.std)),
        prefers=None,
        resize_to=None,
        kwargs=dict(kwargs),
    )


def torchvision_detectors() -> list[str]:
    """Names of torchvision's detectors that have an adapter."""
    known = torchvision.models.list_models(module=torchvision.models.detection)
    return [name for name in known if name.startswith(("fasterrcnn", "maskrcnn", "retinanet", "fcos", "ssd"))]


def is_detector(name: str) -> bool:
    """Whether torchvision has a detector of that name that has an adapter."""
    return name in torchvision_detectors()


def torchvision_detector_blueprint(name: str, num_classes: int, kwargs: Mapping[str, Any]) -> Blueprint:
    """A detector of torchvision's; its weights for COCO are read by the 80 columns that belong to a class."""

    def built() -> nn.Module:
        with refusals_said(f"torchvision:{name}", kwargs):
            return torchvision_detector(name, num_classes, **kwargs)

    def pretrained() -> nn.Module:
        weights = torchvision.models.get_model_weights(name).DEFAULT
        url_within_reach(weights.url)
        try:
            network = torchvision.models.get_model(name, weights=weights, progress=False, **kwargs)
        except (OSError, RuntimeError) as error:  # the download, or its checksum
            raise WeightsUnavailableError(first_line(error)) from error
        columns = [place for place, one in enumerate(weights.meta["categories"]) if one not in _NO_CLASS]
        if num_classes == len(columns):
            return detector(network, num_classes, columns=columns)
        module, published = built(), network.state_dict()
        own = {
            key: published[key] if key in published and published[key].shape == value.shape else value
            for key, value in module.state_dict().items()
        }
        module.load_state_dict(own)
        return module

    return Blueprint(
        build=built,
        pretrained=pretrained,
        normalisation=_NORMALISATIONS.get(name, (tuple(IMAGENET_DEFAULT_MEAN), tuple(IMAGENET_DEFAULT_STD))),
        prefers=None,
        resize_to=None,
        kwargs=dict(kwargs),
    )
