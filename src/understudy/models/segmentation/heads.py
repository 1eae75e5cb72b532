"""Heads of segmenters, from a backbone's maps to the map that is classified: ASPP, pyramid pooling, feature pyramid.

A `head` gives the feature that methods compare ("head" as a tap), a `classifier` makes logits of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

__all__ = ["ASPP", "FPN", "PyramidPooling", "classifier_of"]

POOLED = (1, 2, 3, 6)  # Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: four convolutions of growing reach, and the whole image's mean.

    Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017. (B,D,h,w) to (B,width,h,w).

    Args:
        in_channels: D.
        width: of every branch, and of what is given.
        rates: dilations of the three 3x3 convolutions; the paper's 6, 12, 18 at stride 16, twice that at stride 8.
    """

    def __init__(self, in_channels: int, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [_conv_norm(in_channels, width, 1), *(_conv_norm(in_channels, width, 3, rate) for rate in rates)]
        )
        self.pooled = _conv_norm(in_channels, width, 1)
        self.project = nn.Sequential(*_conv_norm(width * (len(rates) + 2), width, 1), nn.Dropout(0.5))
        self.width = width

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """From the last map."""
        last = features[-1]
        mean = self.pooled(last.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *last.shape[2:])
        projected: Tensor = self.project(torch.cat([*(branch(last) for branch in self.branches), mean], dim=1))
        return projected


class PyramidPooling(nn.Module):
    """The means of 1, 4, 9 and 36 regions beside the map itself, and a 3x3 convolution of all.

    Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017. (B,D,h,w) to (B,width,h,w).
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.regions = nn.ModuleList([_conv_norm(in_channels, in_channels // len(POOLED), 1) for _ in POOLED])
        joined = in_channels + len(POOLED) * (in_channels // len(POOLED))
        self.project = nn.Sequential(*_conv_norm(joined, width, 3), nn.Dropout(0.1))
        self.width = width

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """From the last map."""
        last = features[-1]
        pooled = [
            F.interpolate(region(_mean_of_regions(last, count)), last.shape[2:], mode="bilinear", align_corners=True)
            for count, region in zip(POOLED, self.regions, strict=True)
        ]
        projected: Tensor = self.project(torch.cat([last, *pooled], dim=1))
        return projected


class FPN(nn.Module):
    """A feature pyramid, its levels added up at the size of the largest.

    Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, without its group norms: torchvision's pyramid,
    every level enlarged bilinearly. (B,D_i,h_i,w_i) to (B,width,h_0,w_0).
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.pyramid = FeaturePyramidNetwork(list(channels), width)
        self.smooth = nn.Sequential(*_conv_norm(width, width, 3))
        self.width = width

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """From all maps, the largest first."""
        levels = list(self.pyramid(OrderedDict((str(i), one) for i, one in enumerate(features))).values())
        size = levels[0].shape[2:]
        larger = [F.interpolate(one, size, mode="bilinear", align_corners=False) for one in levels[1:]]
        smoothed: Tensor = self.smooth(torch.stack([levels[0], *larger]).sum(dim=0))
        return smoothed


def classifier_of(in_channels: int, width: int, num_classes: int, *, dropout: float = 0.1) -> nn.Sequential:
    """A 3x3 convolution, batch norm, ReLU, dropout, and the 1x1 convolution that gives logits."""
    return nn.Sequential(*_conv_norm(in_channels, width, 3), nn.Dropout(dropout), nn.Conv2d(width, num_classes, 1))


def _conv_norm(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def _mean_of_regions(maps: Tensor, count: int) -> Tensor:
    return F.adaptive_avg_pool2d(maps, count)
