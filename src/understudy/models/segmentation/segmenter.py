"""Segmenter: a timm backbone, a head, and logits at their own stride; CoarseSegmenter: torchvision's, likewise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from understudy.models.segmentation.heads import ASPP, FPN, PyramidPooling, classifier_of
from understudy.utils.errors import UserError

__all__ = ["HEADS", "CoarseSegmenter", "HeadName", "Segmenter", "backbone_of", "backbone_stride"]

HeadName = Literal["deeplabv3", "psp", "fpn"]
HEADS: tuple[HeadName, ...] = ("deeplabv3", "psp", "fpn")
STRIDES = (8, 16, 32)  # that are tried in turn, where nobody says
NARROW = 1024  # channels of a last map, up to which the head is as wide as the papers' for ResNet-18


class Segmenter(nn.Module):
    """(B,3,H,W) images to {"logits": (B,C,h,w)}, with "aux" beside them where there is an auxiliary head.

    Its stages are the backbone's maps; "head" is the map that the classifier is given.

    Args:
        backbone: a network of timm's that gives a list of maps (`features_only`).
        head: which one.
        num_classes: C.
        output_stride: of the backbone's last map, which the reach of ASPP goes by.
        width: channels of the head; None: 128 on maps of up to 1,024 channels, else 256 (DeepLabV3), 512 (PSP).
        aux: whether there is an auxiliary head, on the map before the last.
        finest: of an FPN, the stride of its largest level, at which the logits are.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: HeadName,
        num_classes: int,
        *,
        output_stride: int = 8,
        width: int | None = None,
        aux: bool = True,
        finest: int = 4,
    ) -> None:
        super().__init__()
        channels: list[int] = backbone.feature_info.channels()  # type: ignore[operator, union-attr]
        last = channels[-1]
        width = width or (128 if last <= NARROW else 512 if head == "psp" else 256)
        self.backbone = backbone
        self.stages = nn.ModuleList(nn.Identity() for _ in channels)  # where the maps are tapped
        self.feature_info = [{"module": f"stages.{place}"} for place in range(len(channels))]
        self.head: nn.Module
        if head == "fpn":
            self.levels = [place for place, reduction in enumerate(_reductions(backbone)) if reduction >= finest]
            self.head = FPN([channels[place] for place in self.levels], width)
        elif head == "psp":
            self.levels = [len(channels) - 1]
            self.head = PyramidPooling(last, width)
        else:
            self.levels = [len(channels) - 1]
            self.head = ASPP(last, width, [rate * max(1, 16 // output_stride) for rate in (6, 12, 18)])
        self.classifier: nn.Module = (
            classifier_of(width, width, num_classes) if head == "deeplabv3" else nn.Conv2d(width, num_classes, 1)
        )
        before = channels[-2] if len(channels) > 1 else last
        self.aux_classifier = classifier_of(before, max(8, before // 4), num_classes) if aux else None
        self.class_layers = _class_layers(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits at the strides of their maps."""
        features = [stage(one) for stage, one in zip(self.stages, self.backbone(images), strict=True)]
        outputs = {"logits": self.classifier(self.head([features[place] for place in self.levels]))}
        if self.aux_classifier is not None:
            outputs["aux"] = self.aux_classifier(features[-2] if len(features) > 1 else features[-1])
        return outputs


class CoarseSegmenter(nn.Module):
    """A segmenter of torchvision's, under its own state_dict keys, whose logits stay at their own stride.

    torchvision enlarges them to the images inside the network, where nothing could compare them as they are.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone: nn.Module = network.backbone  # type: ignore[assignment]
        self.classifier: nn.Module = network.classifier  # type: ignore[assignment]
        if getattr(network, "aux_classifier", None) is not None:
            self.aux_classifier: nn.Module = network.aux_classifier  # type: ignore[assignment]
        self.feature_info = [{"module": f"backbone.{name}"} for name in _stages_of(self.backbone)]
        last = list(self.classifier.named_children())[-1][0]
        self.tap_aliases = {"head": f"classifier.{last}:input"}
        self.class_layers = _class_layers(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits, and "aux" ones where there is an auxiliary head."""
        features = self.backbone(images)
        is_single = "out" in features  # L-RASPP's classifier takes two maps
        outputs = {"logits": self.classifier(features["out"] if is_single else features)}
        if hasattr(self, "aux_classifier"):
            outputs["aux"] = self.aux_classifier(features["aux"])
        return outputs


def backbone_of(name: str, kwargs: Mapping[str, Any], *, pretrained: bool = False) -> nn.Module:
    """A network of timm's that gives its maps."""
    module: nn.Module = timm.create_model(name, features_only=True, pretrained=pretrained, **kwargs)
    return module


def backbone_stride(name: str, kwargs: Mapping[str, Any], wanted: int | None = None) -> tuple[int, dict[str, Any]]:
    """The output stride that a backbone is built for, and the arguments that it then takes.

    Args:
        name: of timm's.
        kwargs: further arguments of its constructor.
        wanted: stride; None: the first of 8, 16 and 32 that it can be built with, else its own.

    Raises:
        UserError: it cannot be built with that stride, or gives no maps.
    """
    problem = ""
    given = [{"output_stride": stride} for stride in (STRIDES if wanted is None else (wanted,))] + [{}]
    for more in given:
        try:
            with torch.device("meta"):
                found = _reductions(backbone_of(name, {**kwargs, **more}))
        except Exception as error:  # a network's constructor may fail in any way
            problem = problem or " ".join(str(error).split())[:200]
            continue
        if found[-1] == more.get("output_stride", wanted or found[-1]):
            return found[-1], {**kwargs, **more}
    strides = f"stride {wanted}" if wanted else "any stride"
    said = f": {problem}" if problem else ""
    raise UserError(f"timm:{name} gives no maps at {strides}{said}; take another backbone, or another output_stride")


def _reductions(backbone: nn.Module) -> list[int]:
    found: list[int] = backbone.feature_info.reduction()  # type: ignore[operator, union-attr]
    return found


def _stages_of(backbone: nn.Module) -> list[str]:
    """The layers of torchvision's backbone that end a stage: those by that name, else before each stride."""
    names = [name for name, _ in backbone.named_children()]
    layers = [name for name in names if name.startswith("layer")]
    if layers:
        return ["relu", *layers]
    children = list(backbone.named_children())
    return [
        name
        for place, (name, _) in enumerate(children)
        if place == len(children) - 1 or _shrinks(children[place + 1][1])
    ]


def _shrinks(layer: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) and max(part.stride) > 1 for part in layer.modules())


def _class_layers(network: nn.Module) -> tuple[str, ...]:
    """Paths of the layers that depend on the number of classes: the last of both heads; L-RASPP's has two."""
    found: list[str] = []
    for name in ("classifier", "aux_classifier"):
        head = getattr(network, name, None)
        if isinstance(head, nn.Sequential):
            found.append(f"{name}.{len(head) - 1}")
        elif isinstance(head, nn.Conv2d):
            found.append(name)
        elif head is not None:
            found += [f"{name}.{part}" for part, _ in head.named_children() if part.endswith("_classifier")]
    return tuple(found)
