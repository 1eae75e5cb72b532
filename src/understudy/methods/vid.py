"""VID: a Gaussian around what the student predicts of the teacher's maps, with a variance it learns."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Paper, at_least_float32
from understudy.methods.shared.maps import comparable_maps
from understudy.methods.shared.stages import StageConfig, StageMethod
from understudy.utils.errors import UserError

__all__ = ["VID", "Regressor", "vid_loss"]


def vid_loss(predicted: Tensor, teacher_features: Tensor, log_scale: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Negative log-likelihood of the teacher's map under a Gaussian with one variance for each channel.

    Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019, without the constant:
    mean of ((f_t - mu)^2 / s_d + log s_d) / 2 with the variance s_d = log(1 + exp(alpha_d)) + eps.

    Args:
        predicted: mu, (M, D, H, W) or (M, D); half types are raised to float32.
        teacher_features: (M, D, H, W), no gradient flows into it; the larger map is averaged down to the smaller.
        log_scale: alpha, (D,).
        eps: smallest variance, in squared units of the teacher's features.

    Returns:
        Scalar mean over rows, channels and positions, in nats; its minimum, mean of log s_d / 2, may be negative.

    Raises:
        UserError: the rows or the channels differ.
    """
    predicted, teacher = comparable_maps(predicted, teacher_features, channels_agree=True)
    if log_scale.shape != teacher.shape[1:2]:
        raise UserError(
            f"log_scale {tuple(log_scale.shape)} must hold one value for each of {teacher.shape[1]} channels"
        )
    variance = (F.softplus(at_least_float32(log_scale)) + eps)[:, None, None]  # (D, 1, 1)
    return ((predicted - teacher).square() / variance + variance.log()).mean() / 2


class Regressor(nn.Module):
    """Three 1x1 convolutions without bias, ReLU between them, and the alpha of the variance.

    (M, in_channels, H, W) to (M, out_channels, H, W).
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, hidden_channels: int, initial_variance: float, eps: float
    ) -> None:
        super().__init__()
        self.regressor = nn.Sequential(
            nn.Conv2d(in_channels, hidden_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, hidden_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, out_channels, 1, bias=False),
        )
        # The inverse of softplus; expm1 keeps it exact for small variances.
        self.log_scale = nn.Parameter(torch.full((out_channels,), math.log(math.expm1(initial_variance - eps))))

    def forward(self, maps: Tensor) -> Tensor:
        """The predicted mean."""
        predicted: Tensor = self.regressor(maps)
        return predicted


class VID(StageMethod, name="vid"):
    """The student's maps predict the teacher's, each channel with an uncertainty of its own.

    Sum over pairs of stages of mean ((f_t - mu(f_s))^2 / s_d + log s_d) / 2 over rows, channels and positions of
    (M, D, H, W) maps, with s_d = softplus(alpha_d) + eps trained beside the regressor mu (three 1x1 convolutions
    without bias). Weights 1 task and 1 distill, over all stages after the stem.

    Differs from: mdistiller keeps alpha in a plain list, so it is neither trained nor saved; RepDistiller trains it,
    and so do we (test_the_variance_is_trained). The values are equal (golden vid). The hidden channels
    of the regressors are the teacher's, as in both codes.
    """

    class Config(StageConfig):
        """Settings of VID."""

        hidden_channels: int | None = Field(default=None, ge=1)  # None: as many as the teacher's map has
        initial_variance: float = Field(default=5.0, gt=0, le=100)  # mdistiller engine/cfg.py: INIT_PRED_VAR
        eps: float = Field(default=1e-5, gt=0)  # mdistiller engine/cfg.py; below initial_variance

    paper = Paper(
        authors="Ahn, Hu, Damianou, Lawrence, Dai",
        title="Variational Information Distillation for Knowledge Transfer",
        venue="CVPR",
        year=2019,
        arxiv="1904.05835",
    )
    default_loss = LossWeights(
        task=1.0, distill=1.0, source="mdistiller engine/cfg.py: CE 1.0, FEAT 1.0 (CIFAR-100), RepDistiller the same"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        if config.eps >= config.initial_variance:
            raise UserError(
                f"method.eps {config.eps} is the smallest variance, but method.initial_variance is "
                f"{config.initial_variance}; set a larger one"
            )
        self.connectors = nn.ModuleList(
            Regressor(
                pair.student_shape.channels,
                pair.teacher_shape.channels,
                hidden_channels=config.hidden_channels or pair.teacher_shape.channels,
                initial_variance=config.initial_variance,
                eps=config.eps,
            )
            for pair in self.pairs
        )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "vid"."""
        losses = []
        for connector, student, teacher in zip(self.connectors, *self.features(pairing), strict=True):
            assert isinstance(connector, Regressor)
            student, teacher = comparable_maps(student, teacher)  # before the regressor, as the official codes
            losses.append(vid_loss(connector(student), teacher, connector.log_scale, eps=self.config.eps))
        return {"vid": torch.stack(losses).sum()}
