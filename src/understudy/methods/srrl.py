"""SRRL: the student's features, sent through the teacher's classifier, must give the teacher's logits."""

from __future__ import annotations

from typing import Literal

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
    Paper,
    at_least_float32,
    refuse_all_but_rows,
)
from understudy.methods.shared.connectors import pooled
from understudy.methods.shared.embeddings import conv_norm, deepest_stage, frozen_classifier
from understudy.methods.shared.maps import as_map, full_precision
from understudy.utils.errors import UserError

__all__ = ["SRRL", "srrl_loss"]


def srrl_loss(
    projected: Tensor,
    teacher_features: Tensor,
    classifier_weight: Tensor,
    classifier_bias: Tensor | None,
    *,
    regression_weight: float = 1.0,
) -> Tensor:
    """Feature matching, and regression of the teacher's logits through the teacher's classifier.

    Yang et al., "Knowledge Distillation via Softmax Regression Representation Learning", ICLR 2021:
    mean (f - f_t)^2 + w * mean (W_t f - W_t f_t)^2, on logits rather than on their softmax, as in their code.

    Args:
        projected: (M, D) student features in the teacher's space; half types are raised to float32.
        teacher_features: (M, D) what the teacher's classifier takes; no gradient flows into it.
        classifier_weight: (C, D) of the teacher, taken as a constant.
        classifier_bias: (C,) or None.
        regression_weight: w.

    Returns:
        Scalar: mean over all elements of features, plus w times the mean over all logits.

    Raises:
        UserError: the shapes differ.
    """
    matching, regression = _terms(projected, teacher_features, classifier_weight, classifier_bias)
    return matching + regression_weight * regression


def _terms(projected: Tensor, teacher: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    refuse_all_but_rows("srrl", projected, teacher)
    if projected.shape != teacher.shape:
        raise UserError(
            f"projected features are {tuple(projected.shape)}, the teacher's {tuple(teacher.shape)}; "
            "project onto as many channels as the teacher's classifier takes, and pool maps first"
        )
    projected, teacher = at_least_float32(projected), at_least_float32(teacher.detach())
    weight = weight.detach().to(projected.dtype)
    bias = None if bias is None else bias.detach().to(projected.dtype)
    with full_precision(projected):  # autocast would put the logits into half types again
        logits, teacher_logits = F.linear(projected, weight, bias), F.linear(teacher, weight, bias)
    return F.mse_loss(projected, teacher), F.mse_loss(logits, teacher_logits)


class SRRL(Method, name="srrl"):
    """The student's features match the teacher's where the teacher's classifier can tell the difference.

    mean over m, d of (z - z_t)^2 + regression_weight * mean over m, c of (W_t z - W_t z_t)^2 on (M, D) vectors: z is
    the mean over positions of ReLU(BN(1x1 f_s)), z_t what the teacher's classifier takes. Task 1 and 1 times this; the
    SimKD repository adds KD at T = 4 with weight 1 (method: [srrl, kd]). Class counts may differ. Any student with
    stages will do, any teacher that ends in an affine layer, ViTs included; of those whose classifier takes negative
    values (ViT, ConvNeXt), `ends_in_relu: false` lets the student meet them.

    `connect: embedding` is the SimKD repository's variant: the connector takes the student's embedding, so its batch
    norm counts images instead of positions, and no stages are needed.

    Differs from: nothing in value, neither from the authors' ImageNet code (golden srrl) nor from the SimKD
    repository's (golden srrl_simkd_repo), to 1e-12 in float64.
    """

    class Config(MethodConfig):
        """Settings of SRRL."""

        regression_weight: float = Field(default=1.0, ge=0)  # KD_SRRL train_imagenet_distillation.py
        connect: Literal["map", "embedding"] = "map"
        ends_in_relu: bool = True  # of the connector, as both codes have it

    paper = Paper(
        authors="Yang, Martinez, Bulat, Tzimiropoulos",
        title="Knowledge Distillation via Softmax Regression Representation Learning",
        venue="ICLR",
        year=2021,
    )
    taps = Taps(student=("stages",), teacher=("embedding",))
    rows = "related"  # the connector's batch norm
    default_loss = LossWeights(task=1.0, distill=1.0, source="KD_SRRL train_imagenet_distillation.py: CE + loss")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.classifier = frozen_classifier(context, method="srrl")
        student_tap = self.taps_for(config).student[0]
        self.student_tap = deepest_stage(context.student, student_tap, setting="the student's")
        in_channels = context.student[self.student_tap].channels
        layers = conv_norm(in_channels, self.classifier.in_features)
        self.connector = nn.Sequential(*layers, *([nn.ReLU()] if config.ends_in_relu else []))

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The student's stages or embedding, and what the teacher's classifier takes."""
        assert isinstance(config, cls.Config)
        return cls.taps if config.connect == "map" else Taps(student=("embedding",), teacher=("embedding",))

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "matching" and, weighted, "regression"."""
        feature = pairing.student_features[self.student_tap]
        if self.config.connect == "embedding":
            feature = pooled(feature)
        projected = pooled(at_least_float32(self.connector(as_map(feature))))
        teacher = pooled(at_least_float32(pairing.teacher_features["embedding"]))
        matching, regression = _terms(projected, teacher, self.classifier.weight, self.classifier.bias)
        return {"matching": matching, "regression": self.config.regression_weight * regression}
