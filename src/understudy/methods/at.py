"""AT: where the teacher's maps are strong, as one attention map for each stage."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Paper
from understudy.methods.shared.maps import as_map, comparable_maps
from understudy.methods.shared.stages import StageConfig, StageMethod
from understudy.utils.errors import UserError, unknown_name

__all__ = ["AT", "AttentionForm", "at_loss", "attention"]

AttentionForm = Literal["code", "paper"]


def at_loss(
    student_features: Tensor, teacher_features: Tensor, *, exponent: int = 2, form: AttentionForm = "code"
) -> Tensor:
    """Attention transfer between two maps.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, eq. 2. With Q the attention, a vector
    over positions, and Q' = Q / max(|Q|_2, 1e-12): "code" is the mean over rows and positions of (Q'_s - Q'_t)^2
    with Q the mean over channels of f^p; "paper" is the mean over rows of |Q'_s - Q'_t|_2 with Q the sum of |f|^p.

    Args:
        student_features: (M, D_s, H_s, W_s); half types are raised to float32.
        teacher_features: (M, D_t, H_t, W_t), no gradient flows into it; the larger map is averaged down to the
            smaller, the channels may differ.
        exponent: p >= 1.
        form: which of the two.

    Returns:
        Scalar; at most 4 / (H W) ("code") or sqrt(2) ("paper").

    Raises:
        UserError: the rows differ, or an unknown form.
    """
    student, teacher = comparable_maps(student_features, teacher_features)
    difference = attention(student, exponent=exponent, form=form) - attention(teacher, exponent=exponent, form=form)
    if form == "code":
        return difference.square().mean()
    # torch gives the norm a zero gradient at zero, where its own would be undefined.
    distances: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return distances.mean()


def attention(maps: Tensor, *, exponent: int = 2, form: AttentionForm = "code") -> Tensor:
    """Attention (M, H * W) of maps (M, D, H, W), every row of length 1 (0 where the map is 0)."""
    maps = as_map(maps)
    if form not in get_args(AttentionForm):
        raise UserError(f"form {form!r} is {unknown_name(form, get_args(AttentionForm))}")
    strength = maps.pow(exponent).mean(dim=1) if form == "code" else maps.abs().pow(exponent).sum(dim=1)
    return F.normalize(strength.flatten(1), dim=1)


class AT(StageMethod, name="at"):
    """The student's maps become strong where the teacher's are.

    Sum over pairs of stages of mean (Q'_s - Q'_t)^2 over rows and positions, Q' the attention of an (M, D, H, W) map:
    mean over channels of f^2, as a vector over positions of length 1. Weights 1 task and 1000 distill, over all
    stages after the stem. 1000 is for the default form, whose mean over positions the paper has in its weight,
    1000 / (rows * positions); with `form: paper`, whose numbers are many times larger, set a smaller one.

    Differs from: the paper's equation takes |f| and the unsquared norm (`form: paper`, as torchdistill's mode
    'paper'; golden at and at_paper). mdistiller pairs by position in its lists and cuts off what is left over; here
    the last stage goes with the last. Squares are taken in float32: in float16 they overflow.
    """

    class Config(StageConfig):
        """Settings of AT."""

        exponent: int = Field(default=2, ge=1)  # p; mdistiller engine/cfg.py
        form: AttentionForm = "code"

    paper = Paper(
        authors="Zagoruyko, Komodakis",
        title="Paying More Attention to Attention: Improving the Performance of CNNs via Attention Transfer",
        venue="ICLR",
        year=2017,
        arxiv="1612.03928",
    )
    default_loss = LossWeights(
        task=1.0,
        distill=1000.0,
        source="mdistiller engine/cfg.py: CE 1.0, FEAT 1000 (CIFAR-100), RepDistiller the same",
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.refuse_single_positions()

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "at"."""
        settings = self.config
        losses = [
            at_loss(student, teacher, exponent=settings.exponent, form=settings.form)
            for student, teacher in zip(*self.features(pairing), strict=True)
        ]
        return {"at": torch.stack(losses).sum()}
