"""The field's ShuffleNet for 32x32 images, with three groups.

Parameter names are those of the published checkpoints (conv1, bn1, layer1.0.conv1, ..., linear).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.models.cifar.common import CifarNetwork, conv, register_cifar, scaled

__all__ = ["CifarShuffleNetV1"]

_STEM = 24
_WIDTHS = (240, 480, 960)
_NUM_BLOCKS = (4, 8, 4)
_GROUPS = 3
_BOTTLENECK = 4  # how many times as many channels leave a block as its depthwise convolution has


class CifarShuffleNetV1(CifarNetwork):
    """Bottlenecks of grouped 1x1 convolutions with a channel shuffle between them, in three stages at stride 2.

    Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", CVPR 2018,
    table 1 (g = 3), as the distillation field uses it (Tian et al., "Contrastive Representation Distillation", ICLR
    2020): a 1x1 stem without pooling, and a ReLU after the depthwise convolution too.

    Differs from: the field's code, which pools a 4x4 window and so takes 32x32 images only. Here the pooling is
    global: the same at 32x32, and any other size works. The stem's pre-activation is what enters its ReLU; there
    it is what leaves it.

    Args:
        num_classes: C; 0 leaves the classifier out.
        in_chans: channels of the images.
        width: factor on all widths, which are rounded to multiples of twelve: of groups times bottleneck.

    Shapes: (B,in_chans,H,W) images to (B,C) logits.
    """

    classifier_name = "linear"
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(self, *, num_classes: int = 100, in_chans: int = 3, width: float = 1.0) -> None:
        super().__init__(num_classes, in_chans)
        stem, *stages = (scaled(channels, width, _GROUPS * _BOTTLENECK) for channels in (_STEM, *_WIDTHS))
        self.conv1 = conv(in_chans, stem, 1)
        self.bn1 = nn.BatchNorm2d(stem)
        self.act1 = nn.ReLU(inplace=True)
        self.feature_info = [{"num_chs": stem, "reduction": 1, "module": "act1", "preact": "bn1", "norm": "bn1"}]
        before = stem
        for number, (channels, num_blocks) in enumerate(zip(stages, _NUM_BLOCKS, strict=True), start=1):
            # The stem has too few channels to be convolved in groups (section 3.3).
            first = _Block(before, channels - before, stride=2, in_groups=1 if number == 1 else _GROUPS)
            others = [_Block(channels, channels, stride=1, in_groups=_GROUPS) for _ in range(num_blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *others))
            self.feature_info.append(
                {
                    "num_chs": channels,
                    "reduction": 2**number,
                    "module": f"layer{number}",
                    "preact": f"layer{number}.{num_blocks - 1}.act3:input",
                    "norm": f"layer{number}.{num_blocks - 1}.bn3",
                }
            )
            before = channels
        self._add_head(before)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B,D,H,W) output of the last stage."""
        maps = self.act1(self.bn1(self.conv1(images)))
        maps = self.layer1(maps)
        maps = self.layer2(maps)
        return self.layer3(maps)  # type: ignore[no-any-return]


class _Block(nn.Module):
    """A bottleneck; at stride 2 its input, averaged, stands beside its output, else both are added."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, in_groups: int) -> None:
        super().__init__()
        inner = channels // _BOTTLENECK
        self.conv1 = conv(in_channels, inner, 1, groups=in_groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.act1 = nn.ReLU(inplace=True)
        self.shuffle = nn.ChannelShuffle(in_groups)
        self.conv2 = conv(inner, inner, 3, stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = conv(inner, channels, 1, groups=_GROUPS)
        self.bn3 = nn.BatchNorm2d(channels)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.act3 = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.shuffle(self.act1(self.bn1(self.conv1(maps))))
        inner = self.act2(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(inner))
        joined = inner + maps if self.pool is None else torch.cat([inner, self.pool(maps)], dim=1)
        return self.act3(joined)  # type: ignore[no-any-return]


register_cifar(CifarShuffleNetV1, {"shufflenetv1": {}}, num_stages=4, classifier_name="linear")
