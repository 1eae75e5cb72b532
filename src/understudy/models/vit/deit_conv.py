"""deit_conv: a DeiT with a stem of convolutions, whose second token is the mean of the patches."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from timm.layers.patch_embed import PatchEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from understudy.models.vit.token_heads import with_tokens_
from understudy.utils.errors import UserError

__all__ = ["DEFAULTS", "SIZES", "ConvStem", "deit_conv"]

_STEM_CHANNELS = 64
SIZES = {"tiny": {"embed_dim": 192, "num_heads": 3}, "small": {"embed_dim": 384, "num_heads": 6}}


class ConvStem(PatchEmbed):
    """Patches by three 3x3 or larger convolutions of 64 channels with batch norm and ReLU, the first with stride 2.

    As in the code of Co-advise and of the projector's DeiT: 7x7 with stride 2, two of 3x3, and a projection that does
    not overlap.

    Shapes: (B,in_chans,H,W) images to (B,N,embed_dim), N = H W / patch_size^2.

    Raises:
        UserError: patches that the stride of 2 does not divide.
    """

    def __init__(self, *, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 768, **kwargs: Any) -> None:
        super().__init__(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **kwargs)
        if any(side % 2 for side in self.patch_size):
            raise UserError(f"a conv stem halves its images first: patch_size must be even, got {patch_size}")
        sides = [side // 2 for side in self.patch_size]
        layers = OrderedDict(
            conv=nn.Sequential(
                *_convolution(in_chans, 7, stride=2),
                *_convolution(_STEM_CHANNELS, 3),
                *_convolution(_STEM_CHANNELS, 3),
            ),
            patches=nn.Conv2d(_STEM_CHANNELS, embed_dim, (sides[0], sides[1]), stride=(sides[0], sides[1])),
        )
        self.proj = nn.Sequential(layers)  # type: ignore[assignment]


def deit_conv(size: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The student of the projector paper on ImageNet: conv stem, class token, mean token, two heads.

    Miles, Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI 2024, table 5, by its
    released code, whose parameters these are in number: 6,633,104 ("tiny") and 23,797,520 ("small") for 1,000 classes.

    Args:
        size: "tiny" or "small".
        pretrained: none were published.
        kwargs: of timm's VisionTransformer: img_size, patch_size (even), depth, embed_dim, num_heads, ...
    """
    module: nn.Module = build_model_with_cfg(
        _built, f"understudy_deit_conv_{size}", pretrained, **{"patch_size": 16, **SIZES[size], **kwargs}
    )
    return module


def _built(**kwargs: Any) -> nn.Module:
    return with_tokens_(VisionTransformer(embed_layer=ConvStem, **kwargs), 1, name="deit_conv", are_learned=False)


def _convolution(in_channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, _STEM_CHANNELS, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(_STEM_CHANNELS), nn.ReLU(inplace=True)]


DEFAULTS: dict[str, Any] = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "fixed_input_size": True,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "patch_embed.proj.conv.0",
    "classifier": ("head", "head_dist"),
}
default_cfgs = generate_default_cfgs(  # timm looks for this name in the module of an entry point
    {f"understudy_deit_conv_{size}": DEFAULTS for size in SIZES}
)


@register_model
def understudy_deit_conv_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`deit_conv` with 192 channels and 3 heads."""
    return deit_conv("tiny", pretrained, **kwargs)


@register_model
def understudy_deit_conv_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`deit_conv` with 384 channels and 6 heads."""
    return deit_conv("small", pretrained, **kwargs)
