"""Where networks come from: each source turns a name into a Blueprint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import timm
import torchvision
from timm.models import PretrainedCfg
from torch import nn

from understudy.core.image_size import ImageSize, size_of, size_text
from understudy.models.blueprint import Blueprint, refusals_said, stated_size
from understudy.models.detectors.blueprints import (
    FAMILIES,
    detector_blueprint,
    is_detector,
    torchvision_detector_blueprint,
)
from understudy.models.detectors.yolo_blueprint import yolo_blueprint
from understudy.models.hub import WeightsUnavailableError, first_line, hub_within_reach, url_within_reach
from understudy.models.hugging_face import hf_blueprint
from understudy.models.names import OWN_PREFIXES
from understudy.models.own_code import call_factory
from understudy.models.segmentation.segmenter import HEADS
from understudy.models.segmentation.sources import (
    is_segmenter,
    segmenter_blueprint,
    torchvision_segmenter_blueprint,
)
from understudy.models.vit.token_heads import refuse_unfitting_patches, with_tokens_
from understudy.utils.errors import UserError

__all__ = ["SOURCES", "own_blueprint"]


def timm_blueprint(name: str, num_classes: int, image_size: ImageSize | None, kwargs: Mapping[str, Any]) -> Blueprint:
    """A network of timm's; one of fixed input size is built for `image_size`.

    `tokens: n` among the arguments of a vision transformer gives it n distillation tokens.
    """
    config = _timm_config(name)
    own_size = size_of(config.input_size)
    kwargs = dict(kwargs)
    image_size = stated_size(_shown(name), kwargs, "img_size", image_size)
    if image_size and config.fixed_input_size:
        kwargs["img_size"] = image_size
    return Blueprint(
        build=partial(_timm_module, name, num_classes, kwargs),
        pretrained=partial(_timm_pretrained, name, num_classes, kwargs),
        normalisation=(tuple(config.mean), tuple(config.std)),
        prefers=image_size if "img_size" in kwargs else own_size,
        resize_to=image_size or (own_size if config.fixed_input_size else None),
        kwargs=kwargs,
    )


def understudy_blueprint(
    name: str, num_classes: int, image_size: ImageSize | None, kwargs: Mapping[str, Any]
) -> Blueprint:
    """A network of this package for images of any one size, of which nobody has published weights."""
    made = timm_blueprint(f"understudy_{name}", num_classes, image_size, kwargs)
    return replace(made, pretrained=None)


def cifar_blueprint(name: str, num_classes: int, image_size: ImageSize | None, kwargs: Mapping[str, Any]) -> Blueprint:
    """One of the field's networks for small images; any size works, the data's normalisation is its own."""
    return Blueprint(
        build=partial(_timm_module, f"cifar_{name}", num_classes, kwargs),
        pretrained=None,
        normalisation=None,
        prefers=size_of(_timm_config(f"cifar_{name}").input_size),
        resize_to=image_size,
        kwargs=kwargs,
    )


def torchvision_blueprint(
    name: str, num_classes: int, image_size: ImageSize | None, kwargs: Mapping[str, Any]
) -> Blueprint:
    """A network of torchvision's; its vision transformers are of fixed input size and built for `image_size`."""
    if is_detector(name):
        return torchvision_detector_blueprint(name, num_classes, kwargs)
    if is_segmenter(name):
        return torchvision_segmenter_blueprint(name, num_classes, kwargs)
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    own_size = int(transforms.crop_size[0])
    is_fixed = name.startswith("vit_")
    kwargs = dict(kwargs)
    if "tokens" in kwargs:
        raise UserError(
            f"torchvision:{name} takes no distillation tokens; leave out tokens, or take one of timm's vision "
            "transformers (timm:vit_base_patch16_224, timm:deit_tiny_patch16_224)"
        )
    image_size = stated_size(f"torchvision:{name}", kwargs, "image_size", image_size)
    if isinstance(image_size, tuple) and is_fixed:
        raise UserError(
            f"torchvision:{name} takes squares alone, and an image size of {size_text(image_size)} is asked for; give "
            "one number, or take one of timm's vision transformers (timm:vit_base_patch16_224), which are built for any"
        )
    if image_size and is_fixed:
        kwargs["image_size"] = image_size
    return Blueprint(
        build=partial(_torchvision_module, name, num_classes, kwargs),
        pretrained=partial(_torchvision_pretrained, name, num_classes, kwargs, own_size),
        normalisation=(tuple(transforms.mean), tuple(transforms.std)),
        prefers=image_size if "image_size" in kwargs else own_size,
        resize_to=image_size or (own_size if is_fixed else None),
        kwargs=kwargs,
    )


def own_blueprint(
    source: str, name: str, num_classes: int, image_size: ImageSize | None, kwargs: Mapping[str, Any]
) -> Blueprint:
    """What the factory `name` in a user's module `source` builds."""
    return Blueprint(
        build=partial(call_factory, source, name, num_classes, kwargs),
        pretrained=None,
        normalisation=None,
        prefers=None,
        resize_to=image_size,
        kwargs=kwargs,
    )


def ultralytics_blueprint(
    name: str, num_classes: int, image_size: ImageSize | None, kwargs: Mapping[str, Any]
) -> Blueprint:
    """A YOLO of the package ultralytics, where a user has installed it; any size works."""
    return yolo_blueprint(name, num_classes, kwargs)


SOURCES: dict[str, Callable[[str, int, ImageSize | None, Mapping[str, Any]], Blueprint]] = {
    "timm": timm_blueprint,
    "torchvision": torchvision_blueprint,
    "cifar": cifar_blueprint,
    "understudy": understudy_blueprint,
    "hf": hf_blueprint,
    "ultralytics": ultralytics_blueprint,
    **{head: partial(segmenter_blueprint, head) for head in HEADS},
    **{family: partial(detector_blueprint, family) for family in FAMILIES},
}


def _timm_config(name: str) -> PretrainedCfg:
    return timm.get_pretrained_cfg(name) or PretrainedCfg()  # ImageNet's values where a model declares none


def _timm_module(name: str, num_classes: int, kwargs: Mapping[str, Any]) -> nn.Module:
    own, num_tokens = _without_tokens(kwargs)
    with refusals_said(_shown(name), own):
        module: nn.Module = timm.create_model(name, num_classes=num_classes, **own)
    if "patch_size" in own and hasattr(module, "set_distilled_training"):  # of others a note speaks
        refuse_unfitting_patches(module, name=_shown(name))
    return _with_tokens(module, num_tokens, name)


def _timm_pretrained(name: str, num_classes: int, kwargs: Mapping[str, Any]) -> nn.Module:
    """timm's published weights; it gives the network a new classifier where the class count differs."""
    if not _timm_config(name).has_weights:
        raise WeightsUnavailableError("none were published")
    own, num_tokens = _without_tokens(kwargs)
    with hub_within_reach():
        module: nn.Module = timm.create_model(name, pretrained=True, num_classes=num_classes, **own)
    return _with_tokens(module, num_tokens, name)


def _without_tokens(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """timm's own arguments, and how many distillation tokens are asked for; None: none."""
    own = dict(kwargs)
    return own, own.pop("tokens", None)


def _with_tokens(module: nn.Module, num_tokens: Any, name: str) -> nn.Module:
    return module if num_tokens is None else with_tokens_(module, num_tokens, name=_shown(name))


def _shown(name: str) -> str:
    """A name in timm's registry as people write it: this package's own networks have a source of their own."""
    for source, prefix in OWN_PREFIXES.items():
        if name.startswith(prefix):
            return f"{source}:{name.removeprefix(prefix)}"
    return f"timm:{name}"


def _torchvision_module(name: str, num_classes: int, kwargs: Mapping[str, Any]) -> nn.Module:
    # These two warn unless they are told to draw their first weights.
    told = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    with refusals_said(f"torchvision:{name}", kwargs):
        module: nn.Module = torchvision.models.get_model(name, num_classes=num_classes, **{**told, **kwargs})
        return _without_auxiliary_classifiers(module)


def _torchvision_pretrained(name: str, num_classes: int, kwargs: Mapping[str, Any], own_size: int) -> nn.Module:
    """torchvision's published weights, in a network with a new classifier where the class count differs."""
    if kwargs.get("image_size", own_size) != own_size:
        raise WeightsUnavailableError(f"they are for images of {own_size} pixels")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    url_within_reach(weights.url)
    try:
        published: nn.Module = torchvision.models.get_model(name, weights=weights, progress=False, **kwargs)
    except (OSError, RuntimeError) as error:  # the download, or its checksum
        raise WeightsUnavailableError(first_line(error)) from error
    if num_classes == len(weights.meta["categories"]):
        return _without_auxiliary_classifiers(published)
    module = _torchvision_module(name, num_classes, kwargs)
    own = module.state_dict()
    kept = {key: value for key, value in published.state_dict().items() if key in own and value.shape == own[key].shape}
    module.load_state_dict(own | kept)
    return module


def _without_auxiliary_classifiers(module: nn.Module) -> nn.Module:
    """GoogLeNet and Inception return a tuple in training unless these are gone."""
    for name in ("AuxLogits", "aux1", "aux2"):
        if hasattr(module, name):
            setattr(module, name, None)
            module.aux_logits = False  # type: ignore[assignment]
    return module
