"""The field's ShuffleNetV2 for 32x32 images.

Parameter names are those of the published checkpoints (conv1, bn1, layer1.0.conv1, ..., conv2, bn2, linear).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.models.cifar.common import CifarNetwork, conv, register_cifar, scaled

__all__ = ["CifarShuffleNetV2"]

_STEM = 24
_WIDTHS = (116, 232, 464)
_NUM_BLOCKS = (4, 8, 4)
_LAST = 1024


class CifarShuffleNetV2(CifarNetwork):
    """Blocks that leave half of the channels alone and shuffle the halves into each other, in three stages at stride 2.

    Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018, table 5 (1x),
    as the distillation field uses it (Tian et al., "Contrastive Representation Distillation", ICLR 2020): a 1x1 stem
    without pooling.

    Differs from: the field's code, which pools a 4x4 window and so fails on 64x64 images. Here the pooling is
    global: the same at 32x32, and any other size works. Pre-activations have their channels in the order of the
    stage, so that a stage is its pre-activation rectified; there they are not shuffled yet, and the stem's is what
    leaves its ReLU.

    Args:
        num_classes: C; 0 leaves the classifier out.
        in_chans: channels of the images.
        width: factor on all widths but that of the last convolution, which keeps its 1024 channels; those of the
            stages are rounded to even ones.

    Shapes: (B,in_chans,H,W) images to (B,C) logits.
    """

    classifier_name = "linear"
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(self, *, num_classes: int = 100, in_chans: int = 3, width: float = 1.0) -> None:
        super().__init__(num_classes, in_chans)
        before = scaled(_STEM, width)
        self.conv1 = conv(in_chans, before, 1)
        self.bn1 = nn.BatchNorm2d(before)
        self.act1 = nn.ReLU(inplace=True)
        # No "norm" in any row: half of a stage's channels come through several blocks, each from its own batch norm.
        self.feature_info = [{"num_chs": before, "reduction": 1, "module": "act1", "preact": "bn1"}]
        for number, (channels, num_blocks) in enumerate(zip(_WIDTHS, _NUM_BLOCKS, strict=True), start=1):
            channels = scaled(channels, width, 2)
            others = [_Block(channels) for _ in range(num_blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(_DownBlock(before, channels), *others))
            self.feature_info.append(
                {
                    "num_chs": channels,
                    "reduction": 2**number,
                    "module": f"layer{number}",
                    "preact": f"layer{number}.{num_blocks - 1}.act3:input",
                }
            )
            before = channels
        self.conv2 = conv(before, _LAST, 1)
        self.bn2 = nn.BatchNorm2d(_LAST)
        self.act2 = nn.ReLU(inplace=True)
        self._add_head(_LAST)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B,1024,H,W) output of the last convolution."""
        maps = self.act1(self.bn1(self.conv1(images)))
        maps = self.layer1(maps)
        maps = self.layer2(maps)
        maps = self.layer3(maps)
        return self.act2(self.bn2(self.conv2(maps)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Half of the channels as they are beside the other half convolved, then shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = conv(half, half, 3, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.shuffle = nn.ChannelShuffle(2)
        self.act3 = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        kept, other = maps.chunk(2, dim=1)
        inner = self.act1(self.bn1(self.conv1(other)))
        inner = self.bn3(self.conv3(self.bn2(self.conv2(inner))))
        # The kept half was rectified before, so the ReLU changes neither it nor its gradient.
        return self.act3(self.shuffle(torch.cat([kept, inner], dim=1)))  # type: ignore[no-any-return]


class _DownBlock(nn.Module):
    """Two ways of convolving all channels at stride 2, side by side, then shuffled."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv(in_channels, in_channels, 3, 2, groups=in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = conv(in_channels, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv(in_channels, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.act3 = nn.ReLU(inplace=True)
        self.conv4 = conv(half, half, 3, 2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)
        self.shuffle = nn.ChannelShuffle(2)
        self.act5 = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        short = self.bn2(self.conv2(self.bn1(self.conv1(maps))))
        long = self.bn4(self.conv4(self.act3(self.bn3(self.conv3(maps)))))
        long = self.bn5(self.conv5(long))
        return self.act5(self.shuffle(torch.cat([short, long], dim=1)))  # type: ignore[no-any-return]


register_cifar(CifarShuffleNetV2, {"shufflenetv2": {}}, num_stages=4, classifier_name="linear")
