"""co_advise: a DeiT with a stem of convolutions and one of involutions, and three heads."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from understudy.models.involution import InvolutionStem
from understudy.models.vit.deit_conv import DEFAULTS, SIZES, ConvStem
from understudy.models.vit.token_heads import TokenHeads, with_tokens_
from understudy.utils.errors import UserError

__all__ = ["TwoStems", "co_advise"]


class TwoStems(ConvStem):
    """Patches by two stems, convolutions and involutions: the mean of either, then their sum.

    Shapes: (B,in_chans,H,W) images to (B,2+N,embed_dim), N = H W / patch_size^2.
    """

    def __init__(self, *, in_chans: int = 3, embed_dim: int = 768, **kwargs: Any) -> None:
        super().__init__(in_chans=in_chans, embed_dim=embed_dim, **kwargs)
        sides = [side // 2 for side in self.patch_size]
        self.involutions = nn.Sequential(
            InvolutionStem(in_chans), nn.Conv2d(64, embed_dim, (sides[0], sides[1]), stride=(sides[0], sides[1]))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Both means in front of the patches."""
        by_convolutions = self.proj(x).flatten(2).transpose(1, 2)
        by_involutions = self.involutions(x).flatten(2).transpose(1, 2)
        means = [patches.mean(dim=1, keepdim=True) for patches in (by_convolutions, by_involutions)]
        return torch.cat([*means, by_convolutions + by_involutions], dim=1)


class _CoAdvise(TokenHeads):
    """`TokenHeads` whose tokens come with the patches."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        """(B,2+N,D) two tokens and the patches to (B,3+N,D)."""
        assert self.cls_token is not None
        together = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        dropped: Tensor = self.pos_drop(together + self._places(x))
        return dropped


def co_advise(size: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Co-advise's student: two stems, three tokens, three heads, whose mean is deployed.

    Ren et al., "Co-advise: Cross Inductive Bias Distillation", CVPR 2022, by its released code: the class token is
    learned, the token "distilled" is the mean of the patches by convolutions, "distilled2" that of the patches by
    involutions, and patches are the sum of both. The stem of involutions is RedNet's, before its pooling.

    Args:
        size: "tiny" or "small".
        pretrained: none were published.
        kwargs: of timm's VisionTransformer: img_size, patch_size (even), depth, embed_dim, num_heads, ...

    Raises:
        UserError: dynamic_img_size, class_token or positions of patches alone, which this network has not.
    """
    other = {"dynamic_img_size": False, "class_token": True, "no_embed_class": False}
    if found := [key for key, value in other.items() if kwargs.get(key, value) != value]:
        raise UserError(
            f"co_advise_{size}: {found[0]} cannot be {kwargs[found[0]]} in a network whose tokens are means"
        )
    module: nn.Module = build_model_with_cfg(
        _built, f"understudy_co_advise_{size}", pretrained, **{"patch_size": 16, **SIZES[size], **kwargs}
    )
    return module


def _built(**kwargs: Any) -> nn.Module:
    vit = VisionTransformer(embed_layer=_two_stems, **kwargs)
    return with_tokens_(vit, 2, name="co_advise", are_learned=False, kind=_CoAdvise)


def _two_stems(**kwargs: Any) -> PatchEmbed:
    return TwoStems(**kwargs)


default_cfgs = generate_default_cfgs(  # timm looks for this name in the module of an entry point
    {f"understudy_co_advise_{size}": {**DEFAULTS, "classifier": ("head", "head_dist", "head_dist2")} for size in SIZES}
)


@register_model
def understudy_co_advise_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`co_advise` with 192 channels and 3 heads of attention."""
    return co_advise("tiny", pretrained, **kwargs)


@register_model
def understudy_co_advise_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`co_advise` with 384 channels and 6 heads of attention."""
    return co_advise("small", pretrained, **kwargs)
