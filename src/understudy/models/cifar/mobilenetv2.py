"""The field's MobileNetV2 for 32x32 images: half as wide as the paper's."""

from __future__ import annotations

from torch import Tensor, nn

from understudy.models.cifar.common import (
    CifarNetwork,
    conv,
    initialise_convolutions,
    initialise_linear,
    register_cifar,
    scaled,
)

__all__ = ["CifarMobileNetV2"]

_STEM = 16
_LAST = 1280
_EXPANSION = 6
_GROUPS = (  # channels, blocks, stride of the first, expansion; half of table 2's channels
    (8, 1, 1, 1),
    (12, 2, 1, _EXPANSION),
    (16, 3, 2, _EXPANSION),
    (32, 4, 2, _EXPANSION),
    (48, 3, 1, _EXPANSION),
    (80, 3, 2, _EXPANSION),
    (160, 1, 1, _EXPANSION),
)
_STAGES = (1, 2, 4, 6)  # the last group at each size


class CifarMobileNetV2(CifarNetwork):
    """Inverted residual blocks with linear bottlenecks, at half of the paper's width.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2, as the distillation
    field uses it (Tian et al., "Contrastive Representation Distillation", ICLR 2020): ReLU instead of ReLU6, the
    second group keeps the size, and channels are not rounded to multiples of eight.

    Stages after the stem are linear bottlenecks, so they are signed and have no pre-activation.

    Args:
        num_classes: C; 0 leaves the classifier out.
        in_chans: channels of the images.
        width: factor on all widths but that of the last convolution, which keeps its 1280 channels as in the paper;
            2 gives the paper's widths.

    Shapes: (B,in_chans,H,W) images to (B,C) logits.
    """

    classifier_name = "classifier"

    def __init__(self, *, num_classes: int = 100, in_chans: int = 3, width: float = 1.0) -> None:
        super().__init__(num_classes, in_chans)
        before, reduction = scaled(_STEM, width), 2
        self.conv1 = _rectified(conv(in_chans, before, 3, stride=2))
        self.feature_info.append({"num_chs": before, "reduction": reduction, "module": "conv1"})
        self.blocks = nn.Sequential()
        for number, (channels, num_blocks, stride, expansion) in enumerate(_GROUPS):
            channels = scaled(channels, width)
            first = _Block(before, channels, stride, expansion)
            others = [_Block(channels, channels, 1, expansion) for _ in range(num_blocks - 1)]
            self.blocks.append(nn.Sequential(first, *others))
            before, reduction = channels, reduction * stride
            if number in _STAGES:
                self.feature_info.append({"num_chs": before, "reduction": reduction, "module": f"blocks.{number}"})
        self.conv2 = _rectified(conv(before, _LAST, 1))
        self._add_head(_LAST)
        initialise_convolutions(self)
        initialise_linear(self, std=0.01)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B,1280,H,W) output of the last convolution."""
        return self.conv2(self.blocks(self.conv1(images)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Widen, convolve each channel by itself, narrow without an activation; the input is added where shapes agree."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.is_residual = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            *_rectified(conv(in_channels, inner, 1)),
            *_rectified(conv(inner, inner, 3, stride, groups=inner)),
            conv(inner, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        inner: Tensor = self.conv(maps)
        return maps + inner if self.is_residual else inner


def _rectified(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True))


register_cifar(
    CifarMobileNetV2,
    {"mobilenetv2": {}},
    num_stages=5,
    classifier_name="classifier",
    first_conv="conv1.0",
    feature_cls="hook",
)
