"""The field's residual networks for 32x32 images: resnet8 ... resnet110 and the wide 8x4 and 32x4.

Parameter names are those of the published checkpoints (conv1, bn1, layer1.0.conv1, ..., fc).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from understudy.models.cifar.common import CifarNetwork, conv, initialise_convolutions, register_cifar, scaled

__all__ = ["CifarResNet"]

_WIDTHS = (16, 16, 32, 64)  # stem and three stages
_WIDE = (32, 64, 128, 256)  # "x4": the stages are four times as wide, the stem only twice
_STRIDES = (1, 2, 2)


class CifarResNet(CifarNetwork):
    """Residual network with a 3x3 stem and three stages of basic blocks at strides 1, 2, 2.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, with 1x1 convolutions where a
    shortcut changes size, as the distillation field uses it (Tian et al., "Contrastive Representation
    Distillation", ICLR 2020).

    Differs from: the field's code, which pools an 8x8 window and so takes 32x32 images only. Here the pooling is
    global: the same at 32x32, and any other size works. The stem's pre-activation is what enters its ReLU; there
    it is what leaves it.

    Args:
        depth: number of weighted layers, 6n + 2 with n blocks in each stage.
        widths: channels of the stem and of the three stages.
        num_classes: C; 0 leaves the classifier out.
        in_chans: channels of the images.
        width: factor on all widths, so that `width=0.25` is a quarter of the network.

    Shapes: (B,in_chans,H,W) images to (B,C) logits.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(
        self,
        depth: int,
        widths: Sequence[int] = _WIDTHS,
        *,
        num_classes: int = 100,
        in_chans: int = 3,
        width: float = 1.0,
    ) -> None:
        super().__init__(num_classes, in_chans)
        stem, *stages = (scaled(channels, width) for channels in widths)
        blocks_per_stage = (depth - 2) // 6
        self.conv1 = conv(in_chans, stem, 3)
        self.bn1 = nn.BatchNorm2d(stem)
        self.act1 = nn.ReLU(inplace=True)
        self.feature_info = [{"num_chs": stem, "reduction": 1, "module": "act1", "preact": "bn1", "norm": "bn1"}]
        before, reduction = stem, 1
        for number, (channels, stride) in enumerate(zip(stages, _STRIDES, strict=True), start=1):
            reduction *= stride
            self.add_module(f"layer{number}", _stage(before, channels, stride, blocks_per_stage))
            self.feature_info.append(
                {
                    "num_chs": channels,
                    "reduction": reduction,
                    "module": f"layer{number}",
                    "preact": f"layer{number}.{blocks_per_stage - 1}.add",
                    "norm": f"layer{number}.{blocks_per_stage - 1}.bn2",
                }
            )
            before = channels
        self._add_head(before)
        initialise_convolutions(self)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B,D,H,W) output of the last stage."""
        maps = self.act1(self.bn1(self.conv1(images)))
        maps = self.layer1(maps)
        maps = self.layer2(maps)
        return self.layer3(maps)  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(conv(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))
        self.add = _Add()
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.act1(self.bn1(self.conv1(maps)))
        inner = self.bn2(self.conv2(inner))
        shortcut = maps if self.downsample is None else self.downsample(maps)
        return self.act2(self.add(inner, shortcut))  # type: ignore[no-any-return]


class _Add(nn.Module):
    """A sum that has a name, so that a stage's pre-activation can be tapped."""

    def forward(self, inner: Tensor, shortcut: Tensor) -> Tensor:
        return inner + shortcut


def _stage(in_channels: int, channels: int, stride: int, num_blocks: int) -> nn.Sequential:
    first = _Block(in_channels, channels, stride)
    return nn.Sequential(first, *(_Block(channels, channels, 1) for _ in range(num_blocks - 1)))


register_cifar(
    CifarResNet,
    {
        **{f"resnet{depth}": {"depth": depth} for depth in (8, 14, 20, 32, 44, 56, 110)},
        "resnet8x4": {"depth": 8, "widths": _WIDE},
        "resnet32x4": {"depth": 32, "widths": _WIDE},
    },
    num_stages=4,
)
