"""Involution, and RedNet: a ResNet whose spatial convolutions are involutions."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

__all__ = ["Involution", "InvolutionStem", "rednet"]

_GROUP_CHANNELS = 16
_REDUCTION = 4
_STEM_CHANNELS = 64


class Involution(nn.Module):
    """A sum over a pixel's neighbours whose weights are made from that pixel, and shared by 16 channels each.

    Li et al., "Involution: Inverting the Inherence of Convolution for Visual Recognition", CVPR 2021, eq. 4 to 6: the
    kernel of a place is span(relu(norm(reduce(x)))), two 1x1 convolutions with a quarter of the channels between. In
    torch's own operations, where the released code has a CUDA kernel.

    Shapes: (B,D,H,W) to (B,D,H/stride,W/stride), rounded up; zeros surround the plane.

    Args:
        channels: D, a multiple of 16.
        kernel_size: odd, of the neighbourhood.
        stride: of the output; kernels are then made from averages of stride x stride places.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.num_groups = kernel_size, stride, channels // _GROUP_CHANNELS
        fewer = channels // _REDUCTION
        self.reduce = nn.Sequential(nn.Conv2d(channels, fewer, 1, bias=False), nn.BatchNorm2d(fewer), nn.ReLU(True))
        self.span = nn.Conv2d(fewer, kernel_size**2 * self.num_groups, 1)
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B,D,H,W) to (B,D,H/stride,W/stride)."""
        kernels: Tensor = self.span(self.reduce(self.pool(x)))  # (B,G*K*K,h,w)
        size, area = kernels.shape[-2:], self.kernel_size**2
        neighbours = F.unfold(x, self.kernel_size, padding=self.kernel_size // 2, stride=self.stride)  # (B,D*K*K,h*w)
        neighbours = neighbours.reshape(x.shape[0], self.num_groups, _GROUP_CHANNELS, area, *size)
        by_group = kernels.reshape(x.shape[0], self.num_groups, 1, area, *size)
        summed: Tensor = (by_group * neighbours).sum(dim=3)  # (B,G,D/G,h,w)
        return summed.flatten(1, 2)


class InvolutionStem(nn.Sequential):
    """RedNet's first layers: a 3x3 convolution of stride 2, an involution of 3x3, a 3x3 convolution.

    Shapes: (B,in_channels,H,W) to (B,64,H/2,W/2).
    """

    def __init__(self, in_channels: int = 3) -> None:
        half = _STEM_CHANNELS // 2
        super().__init__(
            nn.Conv2d(in_channels, half, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            Involution(half, 3),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, _STEM_CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(_STEM_CHANNELS),
            nn.ReLU(inplace=True),
        )


def rednet(depth: int, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """RedNet: a ResNet of bottlenecks with a 7x7 involution in each, and `InvolutionStem`.

    Li et al., CVPR 2021, table 1, whose numbers of parameters these are. RedNet-101 is Co-advise's second teacher.

    Args:
        depth: 26, 38, 50, 101 or 152.
        pretrained: none can be fetched; the authors' files are of mmclassification, under other keys.
        kwargs: of timm's ResNet.
    """
    module: nn.Module = build_model_with_cfg(_RedNet, f"understudy_rednet{depth}", pretrained, depth=depth, **kwargs)
    return module


class _RedNet(ResNet):
    def __init__(self, depth: int = 26, in_chans: int = 3, **kwargs: Any) -> None:
        bottleneck: Any = Bottleneck
        super().__init__(
            bottleneck, _LAYERS[depth], in_chans=in_chans, stem_width=_STEM_CHANNELS // 2, stem_type="deep", **kwargs
        )
        *stem, self.bn1, self.act1 = InvolutionStem(in_chans)
        self.conv1 = nn.Sequential(*stem)
        for block in self.modules():
            if isinstance(block, Bottleneck):
                replaced = block.conv2
                block.conv2 = Involution(replaced.out_channels, 7, replaced.stride[0])  # type: ignore[assignment]


_LAYERS = {26: (1, 2, 4, 1), 38: (2, 3, 5, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

default_cfgs = generate_default_cfgs(  # timm looks for this name in the module of an entry point
    {
        f"understudy_rednet{depth}": {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "conv1.0",
            "classifier": "fc",
        }
        for depth in _LAYERS
    }
)


@register_model
def understudy_rednet26(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`rednet` of 26 layers."""
    return rednet(26, pretrained, **kwargs)


@register_model
def understudy_rednet38(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`rednet` of 38 layers."""
    return rednet(38, pretrained, **kwargs)


@register_model
def understudy_rednet50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`rednet` of 50 layers."""
    return rednet(50, pretrained, **kwargs)


@register_model
def understudy_rednet101(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`rednet` of 101 layers."""
    return rednet(101, pretrained, **kwargs)


@register_model
def understudy_rednet152(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`rednet` of 152 layers."""
    return rednet(152, pretrained, **kwargs)
