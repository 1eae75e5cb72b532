"""The field's MobileNetV2 for the 64x64 images of Tiny-ImageNet.

Registered with timm as `cifar_mobilenetv2_tiny`, beside the networks for 32x32 images: `cifar_mobilenetv2` is
another network, half as wide and without biases. Parameter names are those of the published checkpoints (pre.0,
stage2.0.residual.0, ..., conv2).
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from understudy.models.cifar.common import CifarNetwork, FeatureInfo, scaled

__all__ = ["TinyMobileNetV2"]

_EXPANSION = 6
_STEM, _FIRST, _LAST, _TOP = 32, 16, 320, 1280  # channels outside the five repeated stages
_STAGES = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 1))  # channels, blocks, stride of stages 2 to 6
_LAST_TAPPED = 4  # the field's code takes its features from the stem, stages 2 to 4 and the last convolution


class TinyMobileNetV2(CifarNetwork):
    """Inverted residuals with linear bottlenecks, behind a 1x1 stem.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2, as the field trains
    it on Tiny-ImageNet (Zhao et al., "DOT: A Distillation-Oriented Trainer", ICCV 2023): the stem keeps the
    resolution, and by its padding of 1 adds two pixels to it (64 to 66), stages 2 to 4 halve it, every convolution
    has a bias, and the classifier is a 1x1 convolution.

    Differs from: the field's code, which hands out the classifier's input as (B,D,1,1); as a tap it is (B,D) here,
    like every network's. The stages are linear, so there are no pre-activations to tap.

    Args:
        num_classes: C; 0 leaves the classifier out.
        in_chans: channels of the images.
        width: factor on all widths.

    Shapes: (B,in_chans,H,W) images to (B,C) logits.
    """

    classifier_name = "conv2"

    def __init__(self, *, num_classes: int = 200, in_chans: int = 3, width: float = 1.0) -> None:
        super().__init__(num_classes, in_chans)
        stem, first, last, top = (scaled(channels, width) for channels in (_STEM, _FIRST, _LAST, _TOP))
        self.pre = nn.Sequential(*_activated(in_chans, stem, padding=1))
        self.stage1 = _Bottleneck(stem, first, expansion=1)
        before, reduction = first, 1
        self.feature_info = [_row("pre", stem, 1)]
        for number, (channels, num_blocks, stride) in enumerate(_STAGES, start=2):
            channels, reduction = scaled(channels, width), reduction * stride
            self.add_module(f"stage{number}", _stage(before, channels, num_blocks, stride))
            if number <= _LAST_TAPPED:
                self.feature_info.append(_row(f"stage{number}", channels, reduction))
            before = channels
        self.stage7 = _Bottleneck(before, last)
        self.conv1 = nn.Sequential(*_activated(last, top))
        self.feature_info.append(_row("conv1", top, reduction))
        self._add_head(top)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B,D,H,W) output of the last convolution before the pooling."""
        maps = self.stage1(self.pre(images))
        for number in range(2, 8):
            maps = self.get_submodule(f"stage{number}")(maps)
        return self.conv1(maps)  # type: ignore[no-any-return]

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """(B,C) logits of `forward_features`' maps, or their (B,D) mean with `pre_logits`; timm's signature."""
        pooled = self.global_pool(maps)
        return (pooled if pre_logits else self.conv2(pooled)).flatten(1)  # type: ignore[no-any-return]

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh classifier of `num_classes` in place of the present one; 0 leaves it out."""
        self.num_classes = num_classes
        self.conv2 = nn.Conv2d(self.num_features, num_classes, 1) if num_classes > 0 else nn.Identity()


class _Bottleneck(nn.Module):
    """Expand, filter each channel by itself, project without activation; added to its input where both are alike."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, expansion: int = _EXPANSION) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.residual = nn.Sequential(
            *_activated(in_channels, inner),
            *_activated(inner, inner, kernel=3, stride=stride, padding=1, groups=inner),
            nn.Conv2d(inner, channels, 1),
            nn.BatchNorm2d(channels),
        )
        self.has_shortcut = stride == 1 and in_channels == channels

    def forward(self, maps: Tensor) -> Tensor:
        projected = self.residual(maps)
        return projected + maps if self.has_shortcut else projected  # type: ignore[no-any-return]


def _row(module: str, channels: int, reduction: int) -> FeatureInfo:
    return {"module": module, "num_chs": channels, "reduction": reduction}


def _stage(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = _Bottleneck(in_channels, channels, stride)
    return nn.Sequential(first, *(_Bottleneck(channels, channels) for _ in range(num_blocks - 1)))


def _activated(
    in_channels: int, channels: int, *, kernel: int = 1, stride: int = 1, padding: int = 0, groups: int = 1
) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=padding, groups=groups)
    return convolution, nn.BatchNorm2d(channels), nn.ReLU6(inplace=True)


default_cfgs = generate_default_cfgs(
    {
        "cifar_mobilenetv2_tiny": {
            "num_classes": 200,
            "input_size": (3, 64, 64),
            "crop_pct": 1.0,
            "mean": (0.0, 0.0, 0.0),  # the data's statistics take this place when a network is made
            "std": (1.0, 1.0, 1.0),
            "first_conv": "pre.0",
            "classifier": "conv2",
        }
    }
)


@register_model
def cifar_mobilenetv2_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileNetV2 for 64x64 images; see TinyMobileNetV2."""
    module: nn.Module = build_model_with_cfg(
        TinyMobileNetV2,
        "cifar_mobilenetv2_tiny",
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3, 4)},
        **kwargs,
    )
    return module
