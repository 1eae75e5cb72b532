"""The field's wide residual networks for 32x32 images: wrn_16_1, wrn_16_2, wrn_40_1 and wrn_40_2."""

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

__all__ = ["CifarWideResNet"]

_WIDTHS = (16, 16, 32, 64)  # stem, and the three stages before they are widened
_STRIDES = (1, 2, 2)


class CifarWideResNet(CifarNetwork):
    """Residual network whose blocks normalise and rectify before they convolve, in three stages of wide blocks.

    Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, table 1, without dropout.

    A stage is what leaves its last block, so it is signed. Its pre-activation is that, normalised by the first batch
    norm that comes after it: of the next stage's first block, or the last one of the network.

    Differs from: the field's code, which pools an 8x8 window and so takes 32x32 images only (here the pooling is
    global), which gives the stem itself as the stem's pre-activation, and which runs the batch norms of the
    pre-activations a second time for it, so that their running statistics move twice in a training step.

    Args:
        depth: number of weighted layers, 6n + 4 with n blocks in each stage.
        widen_factor: k, how many times as wide the stages are; the stem is not widened.
        num_classes: C; 0 leaves the classifier out.
        in_chans: channels of the images.
        width: factor on all widths, the stem's too.

    Shapes: (B,in_chans,H,W) images to (B,C) logits.
    """

    block1: nn.Module
    block2: nn.Module
    block3: nn.Module

    def __init__(
        self, depth: int, widen_factor: int, *, num_classes: int = 100, in_chans: int = 3, width: float = 1.0
    ) -> None:
        super().__init__(num_classes, in_chans)
        stem = scaled(_WIDTHS[0], width)
        stages = [scaled(channels * widen_factor, width) for channels in _WIDTHS[1:]]
        self.conv1 = conv(in_chans, stem, 3)
        norms = ["block1.0.bn1", "block2.0.bn1", "block3.0.bn1", "bn1"]
        self.feature_info = [{"num_chs": stem, "reduction": 1, "module": "conv1", "preact": norms[0], "norm": norms[0]}]
        before, reduction = stem, 1
        for number, (channels, stride) in enumerate(zip(stages, _STRIDES, strict=True), start=1):
            reduction *= stride
            self.add_module(f"block{number}", _stage(before, channels, stride, num_blocks=(depth - 4) // 6))
            self.feature_info.append(
                {
                    "num_chs": channels,
                    "reduction": reduction,
                    "module": f"block{number}",
                    "preact": norms[number],
                    "norm": norms[number],
                }
            )
            before = channels
        self.bn1 = nn.BatchNorm2d(before)
        self.act1 = nn.ReLU(inplace=True)
        self._add_head(before)
        initialise_convolutions(self)
        initialise_linear(self)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B,D,H,W) output of the last stage, normalised and rectified."""
        maps = self.conv1(images)
        maps = self.block1(maps)
        maps = self.block2(maps)
        maps = self.block3(maps)
        return self.act1(self.bn1(maps))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Two 3x3 convolutions, each behind its batch norm and ReLU, beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = conv(channels, channels, 3)
        is_same_shape = stride == 1 and in_channels == channels
        self.shortcut = None if is_same_shape else conv(in_channels, channels, 1, stride)

    def forward(self, maps: Tensor) -> Tensor:
        active = self.act1(self.bn1(maps))
        inner = self.conv2(self.act2(self.bn2(self.conv1(active))))
        return inner + (maps if self.shortcut is None else self.shortcut(active))  # type: ignore[no-any-return]


def _stage(in_channels: int, channels: int, stride: int, *, num_blocks: int) -> nn.Sequential:
    first = _Block(in_channels, channels, stride)
    return nn.Sequential(first, *(_Block(channels, channels, 1) for _ in range(num_blocks - 1)))


register_cifar(
    CifarWideResNet,
    {
        f"wrn_{depth}_{widen_factor}": {"depth": depth, "widen_factor": widen_factor}
        for depth in (16, 40)
        for widen_factor in (1, 2)
    },
    num_stages=4,
)
