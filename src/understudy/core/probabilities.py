"""Networks that end in a softmax: told by what they give, and their logits back from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["are_probabilities", "as_logits"]

TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 3e-2}  # of a row's sum; wider types: 1e-3


def are_probabilities(output: Any) -> bool:
    """Whether an output (B,C) has rows that are not negative and sum to 1, as no logits do by chance."""
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2 or not output.is_floating_point():
        return False
    rows = output.detach().float()
    off = (rows.sum(1) - 1).abs().max()
    return bool((rows >= 0).all()) and bool(off <= TOLERANCE.get(output.dtype, 1e-3))


def as_logits(probabilities: Tensor) -> Tensor:
    """Their logarithm (B,C), float32 or wider: the logits but for a constant a row. 0 becomes the least there is."""
    wide = probabilities if probabilities.dtype == torch.float64 else probabilities.float()
    return wide.clamp_min(torch.finfo(torch.float32).tiny).log()
