"""Segmenters of queries (Mask2Former, MaskFormer) as networks that give logits at every place."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["QUERY_SEGMENTERS", "semantic_logits"]

QUERY_SEGMENTERS = ("Mask2FormerForUniversalSegmentation", "MaskFormerForInstanceSegmentation")  # of transformers
LEAST = 1e-7  # of a class at a place, before its logarithm is taken


def semantic_logits(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """The logarithm of the share of each class in what all queries say of a place.

    Every query proposes a class, or none, and a mask: a class has, at a place, the sum over queries of its probability
    times the sigmoid of the mask there (Cheng et al., "Masked-attention Mask Transformer for Universal Image
    Segmentation", CVPR 2022). These sums are divided by that over the classes, so that softmax at temperature 1 gives
    them again; the largest is the class that the paper predicts.

    Args:
        class_logits: (B,Q,C+1) of Q queries, "no object" last.
        mask_logits: (B,Q,h,w).

    Returns:
        (B,C,h,w) float32 or wider, log-probabilities; a share of less than 1e-7 counts as that.
    """
    wide = torch.promote_types(mask_logits.dtype, torch.float32)
    shares = class_logits.to(wide).softmax(dim=-1)[..., :-1]
    sums = torch.einsum("bqc,bqhw->bchw", shares, mask_logits.to(wide).sigmoid())
    return (sums / sums.sum(dim=1, keepdim=True).clamp_min(torch.finfo(wide).tiny)).clamp_min(LEAST).log()
