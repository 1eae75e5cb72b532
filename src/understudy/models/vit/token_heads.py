"""Vision transformers with distillation tokens: each token has a head of its own, and the mean of all is deployed."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from understudy.core.heads import CLASS_HEAD, DISTILLED_HEAD
from understudy.utils.errors import UserError

__all__ = ["MOST_TOKENS", "TokenHeads", "refuse_unfitting_patches", "with_tokens_"]

MOST_TOKENS = 8
_STD = 0.02  # of first weights, as in DeiT


class TokenHeads(VisionTransformer):
    """timm's vision transformer with further tokens in front of the patches, and a linear head on each of them.

    Touvron et al., "Training data-efficient image transformers & distillation through attention", ICML 2021, section 4.
    While it is trained under `set_distilled_training` it gives {"logits", "distilled", "distilled2", ...}, each (B,C);
    else the mean of these logits. With one learned token and a class token its parameters are those of timm's
    VisionTransformerDistilled, under the same names.

    A network becomes one by `with_tokens_`, once its constructor is through.

    Attributes:
        dist_token: (1,n,D) learned tokens; None: one token, the mean of the patches' embeddings.
        head_names: of what it predicts, in order; the first is the class token's.
    """

    dist_token: nn.Parameter | None
    embed_dim: int
    head_names: tuple[str, ...]
    distilled_training: bool

    def set_distilled_training(self, enable: bool = True) -> None:
        """Whether each head's logits are given in training, and not their mean; timm's own name for it."""
        self.distilled_training = enable

    def get_classifier(self) -> tuple[nn.Module, ...]:
        """All heads, the class token's first."""
        return self.head, *(self.get_submodule(path) for path in self._token_heads())

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put fresh heads of `num_classes` in place of the present ones."""
        super().reset_classifier(num_classes, global_pool)
        like = next(self.parameters())
        for path in self._token_heads():
            setattr(self, path, _head(self.embed_dim, num_classes).to(like.device, like.dtype))

    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed."""
        return {*super().no_weight_decay(), "dist_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which layer a parameter is of, as timm asks; the tokens are part of the stem."""
        matcher = dict(super().group_matcher(coarse))
        return {**matcher, "stem": f"{matcher['stem']}|dist_token"}

    def _token_heads(self) -> list[str]:
        return [f"head_dist{number or ''}" for number in (0, *range(2, len(self.head_names)))]

    def _pos_embed(self, x: Tensor) -> Tensor:
        """(B,N,D) patches, or (B,H,W,D) where any image size goes, to (B,P+N,D) with all tokens in front."""
        patches = x.flatten(1, 2) if x.ndim == 4 else x
        given = [self.cls_token, self.reg_token, self.dist_token]
        front = [token.expand(x.shape[0], -1, -1) for token in given if token is not None]
        if self.dist_token is None:
            front.append(patches.mean(dim=1, keepdim=True))
        if self.pos_embed is None:
            together = torch.cat([*front, patches], dim=1)
        elif self.no_embed_class:
            together = torch.cat([*front, patches + self._places(x)], dim=1)
        else:
            together = torch.cat([*front, patches], dim=1) + self._places(x)
        dropped: Tensor = self.pos_drop(together)
        return dropped

    def _places(self, x: Tensor) -> Tensor:
        """(1,P+N,D) or (1,N,D) position embeddings, at the size of the images."""
        assert self.pos_embed is not None
        if not self.dynamic_img_size:
            return self.pos_embed
        resampled: Tensor = resample_abs_pos_embed(
            self.pos_embed,
            new_size=[x.shape[1], x.shape[2]],
            old_size=self.patch_embed.grid_size,
            num_prefix_tokens=0 if self.no_embed_class else self.num_prefix_tokens,
        )
        return resampled

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """The heads' logits by name in distilled training, else their mean; the tokens' mean with `pre_logits`."""
        first = self.num_prefix_tokens - len(self.head_names) + 1
        tokens = [self.pool(x), *x[:, first : self.num_prefix_tokens].unbind(1)]
        tokens = [self.head_drop(self.fc_norm(token)) for token in tokens]
        if pre_logits:
            return torch.stack(tokens).mean(dim=0)
        logits = [head(token) for head, token in zip(self.get_classifier(), tokens, strict=True)]
        if self.distilled_training and self.training:
            return dict(zip(self.head_names, logits, strict=True))
        return sum(logits[1:], logits[0]) / len(logits)


def with_tokens_(
    vit: Any, num_tokens: int, *, name: str, are_learned: bool = True, kind: type[TokenHeads] = TokenHeads
) -> nn.Module:
    """Give a vision transformer of timm's distillation tokens, in place; what it has learnt stays.

    Args:
        vit: whose class token, registers and patches stay where they are; the tokens come behind the first two.
        num_tokens: n.
        name: what messages call it.
        are_learned: the tokens are parameters; False: there is one, the mean of the patches' embeddings, unless
            `kind` has others.
        kind: what it becomes.

    Raises:
        UserError: a network of another class, or one that has distillation tokens already.
    """
    if isinstance(num_tokens, bool) or not isinstance(num_tokens, int) or not 1 <= num_tokens <= MOST_TOKENS:
        raise UserError(f"{name}: tokens must be a whole number from 1 to {MOST_TOKENS}, got {num_tokens!r}")
    if hasattr(vit, "set_distilled_training"):
        raise UserError(f"{name} has distillation tokens of its own; leave out tokens={num_tokens}")
    if type(vit) is not VisionTransformer:
        raise UserError(
            f"{name} is a {type(vit).__name__}, and distillation tokens go into timm's plain VisionTransformer "
            "(vit_*, deit_*, deit3_*, ...) alone; leave out tokens, or take one of these"
        )
    refuse_unfitting_patches(vit, name=name)
    return _given_tokens_(vit, num_tokens, are_learned, kind)


def refuse_unfitting_patches(vit: Any, *, name: str) -> None:
    """Refuse a vision transformer whose patches do not fill its images; a network without patches passes.

    Raises:
        UserError: pixels at the right and at the bottom would be left unseen.
    """
    embed = getattr(vit, "patch_embed", None)
    sides, patch = getattr(embed, "img_size", None), getattr(embed, "patch_size", None)
    if not isinstance(sides, tuple) or not isinstance(patch, tuple) or getattr(embed, "dynamic_img_pad", False):
        return
    if any(side % own for side, own in zip(sides, patch, strict=True)):
        raise UserError(
            f"{name}: patches of {patch[0]}x{patch[1]} pixels make no grid of images of {sides[0]}x{sides[1]}; set "
            "patch_size or the image size so that one divides the other"
        )


def _given_tokens_(vit: Any, num_tokens: int, are_learned: bool, kind: type[TokenHeads]) -> nn.Module:
    like = next(vit.parameters())
    if vit.pos_embed is not None and not vit.no_embed_class:
        front, patches = vit.pos_embed.data.split([vit.num_prefix_tokens, vit.patch_embed.num_patches], dim=1)
        vit.pos_embed = nn.Parameter(torch.cat([front, _first(num_tokens, vit.embed_dim, like), patches], dim=1))
    vit.dist_token = nn.Parameter(_first(num_tokens, vit.embed_dim, like)) if are_learned else None
    vit.num_prefix_tokens += num_tokens
    # The class and not a wrapper around it: the network keeps its own keys, and whatever timm knows of it.
    vit.__class__ = kind
    vit.head_names = (CLASS_HEAD, DISTILLED_HEAD, *(f"{DISTILLED_HEAD}{number}" for number in range(2, num_tokens + 1)))
    vit.distilled_training = False
    for path in vit._token_heads():
        setattr(vit, path, _head(vit.embed_dim, vit.num_classes).to(like.device, like.dtype))
    if declared := getattr(vit, "pretrained_cfg", None):
        vit.default_cfg = vit.pretrained_cfg = {**declared, "classifier": ("head", *vit._token_heads())}
    given: nn.Module = vit
    return given


def _first(num_tokens: int, num_channels: int, like: Tensor) -> Tensor:
    """(1,n,D) first values of tokens, or of their positions."""
    return nn.init.trunc_normal_(torch.empty(1, num_tokens, num_channels), std=_STD).to(like.device, like.dtype)


def _head(num_features: int, num_classes: int) -> nn.Module:
    if num_classes == 0:
        return nn.Identity()
    head = nn.Linear(num_features, num_classes)
    nn.init.trunc_normal_(head.weight, std=_STD)
    nn.init.zeros_(head.bias)
    return head
