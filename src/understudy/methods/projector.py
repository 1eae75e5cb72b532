"""The simple recipe: a projector, normalised features, and a soft maximum of what separates them."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import (
    Context,
    LossWeights,
    Method,
    MethodConfig,
    Need,
    Paper,
    at_least_float32,
    refuse_all_but_rows,
)
from understudy.methods.kd import kd_loss
from understudy.methods.shared.connectors import linear_connector, mlp_connector, pooled
from understudy.methods.shared.embeddings import tap_channels
from understudy.methods.shared.logits import as_rows
from understudy.methods.shared.maps import on_one_grid
from understudy.methods.shared.whitening import Whitening, whitened
from understudy.utils.errors import UserError, unknown_name

__all__ = ["Distance", "Normalisation", "Projector", "projector_loss"]

Normalisation = Literal["none", "l2", "group", "batch", "whiten"]
Distance = Literal["logsum", "logsumexp", "correlation", "mse"]

_LOGSUM_FLOOR = 1e-30  # keeps log and gradient finite at equality; a training batch sums to 1e2 and more
_CORRELATION_FLOOR = 1e-5  # the DeiT code's own


def projector_loss(
    projected: Tensor,
    teacher_features: Tensor,
    *,
    normalisation: Normalisation = "batch",
    distance: Distance = "logsum",
    alpha: float = 4.0,
    logsumexp_temperature: float = 1.0,
    num_groups: int = 16,
    whitening: Whitening = "zca",
    eps: float = 1e-4,
) -> Tensor:
    """Distance between projected student features and the teacher's, both normalised the same way.

    Miles and Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI 2024, eq. 12.
    With x = |n(projected) - n(teacher)|, every entry of it, and r_d the mean over rows of the product of column d:
    logsum is log(sum x^alpha); logsumexp is t * log(sum exp(x / t)); correlation is log(sum_d |r_d - 1|^alpha + 1e-5),
    from the authors' DeiT code; mse is the mean of x^2, the paper's "without LogSum".

    Args:
        projected: (M, D) student features in the teacher's space; half types are raised to float32.
        teacher_features: (M, D), no gradient flows into it.
        normalisation: of each side. "batch": per column over the M rows, no affine part; "group": per row over
            num_groups groups of columns; "l2": rows of length 1; "whiten": decorrelated columns of variance 1 over
            the M rows (the paper's "whitened features"); "none".
        distance: which of the four above.
        alpha: exponent >= 1 of logsum and correlation; 4 to 5 is the paper's best.
        logsumexp_temperature: t > 0, in units of the normalised features.
        num_groups: divides D.
        whitening: how columns are decorrelated, "zca" or "cholesky".
        eps: added to the variance in batch and group normalisation and in whitening.

    Returns:
        Scalar. The logarithms sum over the batch, so they grow by log(M) with it and may be negative.

    Raises:
        UserError: the shapes differ, or an unknown normalisation or distance.
    """
    refuse_all_but_rows("projector", projected, teacher_features)
    if projected.shape != teacher_features.shape:
        raise UserError(
            f"projected features are {tuple(projected.shape)}, the teacher's {tuple(teacher_features.shape)}; "
            "project onto as many channels as the teacher has, and pool maps first"
        )
    dtype = torch.promote_types(at_least_float32(projected).dtype, at_least_float32(teacher_features).dtype)
    # Near 1, where the logarithm is near 0, float32 leaves the correlations' fourth powers too few digits.
    wide = torch.float64 if distance == "correlation" and projected.device.type != "mps" else dtype
    student, teacher = (
        whitened(rows, whitening=whitening, eps=eps)
        if normalisation == "whiten"
        else _normalised(rows, normalisation, num_groups, eps)
        for rows in (projected.to(wide), teacher_features.detach().to(wide))
    )
    return _distance(student, teacher, distance, alpha, logsumexp_temperature).to(dtype)


def _normalised(rows: Tensor, normalisation: Normalisation, num_groups: int, eps: float) -> Tensor:
    if normalisation == "batch":
        # No running statistics, hence no train or eval mode: what is compared is this batch on both sides.
        variance, mean = torch.var_mean(rows, dim=0, correction=0)
        return (rows - mean) * torch.rsqrt(variance + eps)
    if normalisation == "group":
        return F.group_norm(rows, num_groups, eps=eps)
    if normalisation == "l2":
        return F.normalize(rows, dim=1)
    if normalisation == "none":
        return rows
    raise UserError(f"normalisation {normalisation!r} is {unknown_name(normalisation, get_args(Normalisation))}")


def _distance(student: Tensor, teacher: Tensor, distance: Distance, alpha: float, temperature: float) -> Tensor:
    if distance == "logsum":
        return ((student - teacher).abs().pow(alpha).sum() + _LOGSUM_FLOOR).log()
    if distance == "logsumexp":
        return temperature * ((student - teacher).abs() / temperature).flatten().logsumexp(dim=0)
    if distance == "correlation":
        correlation = (student * teacher).mean(dim=0)  # (D,)
        return ((correlation - 1).abs().pow(alpha).sum() + _CORRELATION_FLOOR).log()
    if distance == "mse":
        return F.mse_loss(student, teacher)
    raise UserError(f"distance {distance!r} is {unknown_name(distance, get_args(Distance))}")


class Projector(Method, name="projector"):
    """The student's embedding, projected and batch-normalised, approaches the teacher's under a soft maximum.

    distance_weight * log(sum over m, d of |BN(P z_s) - BN(z_t)|^alpha) + kl_weight * KL(p_t || p_s) on (M, D)
    embeddings and (M, C) logits; the first is a sum over the batch inside the logarithm, the second a mean over rows
    at T = 1. Maps are averaged over their positions, or each position is a row (`spatial`). The defaults are
    the authors' ImageNet configuration as a whole: linear projector with bias, BN without affine part and eps 1e-4,
    alpha 4, 2 LogSum + 1 KL, task weight 1.

    Why kl_weight is 1: the released ImageNet run, the one that others reproduced, has it, and a default that takes
    its weight from there and its KL from elsewhere would be nobody's experiment. The paper's CIFAR-100 runs are
    `projector: mlp, kl_weight: 0`; with kl_weight 0 the teacher's logits are not needed at all. A DeiT, as released:
    `student_tap: norm, distance: correlation, distance_weight: 1, kl_weight: 0`, with `kd` on its second head.

    Differs from: LogSum has a floor of 1e-30 inside the logarithm, where the authors' is minus infinity with NaN
    gradients at equality (test_logsum_is_finite_with_zero_gradient_where_both_sides_are_equal). The floor moves no
    golden value by 1e-12. Statistics are always the batch's, on both sides, and in at least float32. The DeiT
    code's batch norm has eps 0, which a dead channel turns into NaN; `distance: correlation` takes `eps` as well.
    The paper leaves the MLP's inside and the form of LogSumExp open: ours are one ReLU layer and
    t * log(sum exp(x / t)), a maximum as t goes to 0.
    """

    class Config(MethodConfig):
        """Settings of the projector recipe."""

        projector: Literal["linear", "mlp"] = "linear"  # mlp: the paper's on CIFAR-100
        hidden_channels: int = Field(default=1024, ge=1)  # of the mlp; paper, CIFAR-100
        bias: bool = True  # nn.Linear(512, 512) with bias in the ImageNet code
        normalisation: Normalisation = "batch"  # the best of the paper's table 1
        whitening: Whitening = "zca"  # of normalisation: whiten
        num_groups: int = Field(default=16, ge=1)  # of normalisation: group; lines left commented in the ImageNet code
        eps: float = Field(default=1e-4, gt=0)  # paper, implementation details
        distance: Distance = "logsum"
        alpha: float = Field(default=4.0, ge=1)  # paper's table 2: 4 to 5
        logsumexp_temperature: float = Field(default=1.0, gt=0)
        distance_weight: float = Field(default=2.0, ge=0)  # imagenet/torchdistill/losses/single.py
        kl_weight: float = Field(default=1.0, ge=0)  # the same file; 0 in the paper's CIFAR-100 runs
        spatial: bool = False  # every place of the two maps is a row, on the smaller grid; false: their means are
        student_tap: str = "embedding"  # of a transformer: the class token; norm: its patches; norm:tokens: all tokens
        teacher_tap: str = "embedding"

    paper = Paper(
        authors="Miles, Mikolajczyk",
        title="Understanding the Role of the Projector in Knowledge Distillation",
        venue="AAAI",
        year=2024,
        arxiv="2303.11098",
    )
    taps = Taps(student=("embedding",), teacher=("embedding",))
    needs = frozenset({"teacher_logits"})
    rows = "related"  # also without batch norm: the logarithm is of a sum over the batch
    default_loss = LossWeights(
        task=1.0, distill=1.0, source="Simple-Recipe-Distillation res3418.yaml: 1.0 CE + 1.0 (2.0 LogSum + 1.0 KL)"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        in_channels = tap_channels(context.student, config.student_tap, setting="method.student_tap")
        out_channels = tap_channels(context.teacher, config.teacher_tap, setting="method.teacher_tap")
        if config.normalisation == "group" and out_channels % config.num_groups:
            raise UserError(
                f"method.num_groups {config.num_groups} does not divide the teacher's {out_channels} channels at "
                f"{config.teacher_tap!r}; set a divisor of {out_channels}"
            )
        self.projector: nn.Module
        if config.projector == "linear":
            self.projector = linear_connector(in_channels, out_channels, bias=config.bias)
        else:
            self.projector = mlp_connector(
                in_channels, out_channels, hidden_channels=config.hidden_channels, bias=config.bias
            )

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The one tap of either side."""
        assert isinstance(config, cls.Config)
        return Taps(student=(config.student_tap,), teacher=(config.teacher_tap,))

    @classmethod
    def needs_for(cls, config: MethodConfig) -> frozenset[Need]:
        """The teacher's logits only where the KL term has weight."""
        assert isinstance(config, cls.Config)
        return cls.needs if config.kl_weight > 0 else frozenset()

    @classmethod
    def min_rows(cls, config: MethodConfig) -> int:
        """2 where something is taken over the batch: one row is its own mean, so it would be all zeros."""
        assert isinstance(config, cls.Config)
        if config.spatial:  # an image has many rows
            return 1
        return 2 if config.normalisation in ("batch", "whiten") or config.distance == "correlation" else 1

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """A term named as the distance and, where it has weight, "kl"; both weighted."""
        settings = self.config
        student, teacher = self._rows(
            pairing.student_features[settings.student_tap], pairing.teacher_features[settings.teacher_tap]
        )
        distance = projector_loss(
            self.projector(student),
            teacher,
            normalisation=settings.normalisation,
            distance=settings.distance,
            alpha=settings.alpha,
            logsumexp_temperature=settings.logsumexp_temperature,
            num_groups=settings.num_groups,
            whitening=settings.whitening,
            eps=settings.eps,
        )
        terms = {settings.distance: settings.distance_weight * distance}
        if settings.kl_weight > 0:
            assert pairing.teacher_logits is not None
            terms["kl"] = settings.kl_weight * kd_loss(pairing.student_logits, pairing.teacher_logits, temperature=1.0)
        return terms

    def _rows(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(M, D) of either side: a row an image, or one for each place of its map."""
        if not self.config.spatial:
            return pooled(student), pooled(at_least_float32(teacher))
        student, teacher = on_one_grid(student, teacher)
        return as_rows(student), as_rows(teacher)
