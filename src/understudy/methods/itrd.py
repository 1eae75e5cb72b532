"""ITRD: correlated feature by feature, and as informative about which samples are alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import Context, LossWeights, Method, MethodConfig, Paper
from understudy.methods.shared.connectors import linear_connector
from understudy.methods.shared.relations import (
    EmbeddingConfig,
    embedding_channels,
    embedding_taps,
    embeddings,
    inner_products,
    related_rows,
    sample_rows,
)
from understudy.utils.errors import UserError

__all__ = ["ITRD", "itrd_correlation_loss", "itrd_loss", "itrd_mutual_loss"]

_VARIANCE_FLOOR = 1e-12  # a column that varies less counts as constant


def itrd_loss(
    projected: Tensor,
    student_features: Tensor,
    teacher_features: Tensor,
    *,
    alpha: float = 1.5,
    correlation_weight: float = 2.0,
    mutual_weight: float = 0.05,
    takes_logarithm: bool = False,
) -> Tensor:
    """Information-theoretic representation distillation: correlation and mutual-information terms.

    Miles et al., "Information Theoretic Representation Distillation", BMVC 2022; the two terms are
    `itrd_correlation_loss` of the projected features and `itrd_mutual_loss` of the student's own.

    Args:
        projected: (M, D_t) student features in the teacher's space; half types are raised to float32.
        student_features: (M, D) of any width; the authors take `projected` where D_s and D_t differ.
        teacher_features: (M, D_t), no gradient flows into it.
        alpha: order of the Renyi entropy, as in `itrd_correlation_loss`.
        correlation_weight: of the first term.
        mutual_weight: of the second.
        takes_logarithm: as in `itrd_mutual_loss`.

    Returns:
        Scalar, in bits where logarithms are taken.

    Raises:
        UserError: the projected features have another size than the teacher's.
    """
    correlation = itrd_correlation_loss(projected, teacher_features, alpha=alpha)
    mutual = itrd_mutual_loss(student_features, teacher_features, takes_logarithm=takes_logarithm)
    return correlation_weight * correlation + mutual_weight * mutual


def itrd_correlation_loss(projected: Tensor, teacher_features: Tensor, *, alpha: float = 1.5) -> Tensor:
    """log2 of the sum over columns d of |c_d - 1|^(2 alpha), c_d the columns' correlation over the batch.

    As in the authors' code columns are divided by their unbiased deviation and c_d is a mean over M, so that a
    perfect student has c_d = 1 - 1 / M and the loss its smallest value log2(D) - 2 alpha log2(M). A constant column
    has c_d = 0.

    Args:
        projected: (M, D) or (M, D, H, W), M >= 2; half types are raised to float32.
        teacher_features: of the same shape, no gradient flows into it.
        alpha: > 0.

    Returns:
        Scalar in bits: a sum over D inside the logarithm, so it may be negative.

    Raises:
        UserError: the shapes differ.
    """
    if projected.shape != teacher_features.shape:
        raise UserError(
            f"itrd correlates features column by column, but the projected ones are {tuple(projected.shape)} and the "
            f"teacher's {tuple(teacher_features.shape)}; project onto as many channels as the teacher has"
        )
    student, teacher = _standardised(projected), _standardised(teacher_features.detach())
    correlation = (student * teacher).mean(dim=0)  # (D,)
    return (correlation - 1).abs().pow(2 * alpha).sum().log2()


def _standardised(features: Tensor) -> Tensor:
    features = sample_rows(features)
    variance, mean = torch.var_mean(features, dim=0)
    scale = variance.clamp(min=_VARIANCE_FLOOR).rsqrt() * (variance > _VARIANCE_FLOOR)
    return (features - mean) * scale


def itrd_mutual_loss(student_features: Tensor, teacher_features: Tensor, *, takes_logarithm: bool = False) -> Tensor:
    """Minus the mutual information of the similarities of a batch: sum of G_s^2 minus sum of (G_s * G_t)^2.

    G is the matrix of cosines between rows, and each matrix is divided by its trace: Renyi's entropies of order 2,
    without the teacher's own, which is constant.

    Args:
        student_features: (M, D_s); half types are raised to float32.
        teacher_features: (M, D_t), D_t may differ; no gradient flows into it.
        takes_logarithm: of both sums, to base 2, as the entropies' definition has it and the authors' code has not.

    Returns:
        Scalar: sums over all M^2 pairs.

    Raises:
        UserError: other samples on one side than on the other.
    """
    student, teacher = (_cosines(rows) for rows in related_rows(student_features, teacher_features))
    alone, joint = _normalised_square_sum(student), _normalised_square_sum(student * teacher)
    return alone.log2() - joint.log2() if takes_logarithm else alone - joint


def _cosines(features: Tensor) -> Tensor:
    rows = F.normalize(features, dim=1)
    return inner_products(rows, rows)  # (M, M)


def _normalised_square_sum(matrix: Tensor) -> Tensor:
    # The trace is the number of rows that are not zero; a batch of zeros has no entropy to speak of.
    tiny = torch.finfo(matrix.dtype).tiny
    return (matrix / matrix.trace().clamp(min=tiny)).square().sum().clamp(min=tiny)


class ITRD(Method, name="itrd"):
    """The student's features correlate with the teacher's, and tell as much about which samples are alike.

    correlation_weight * log2(sum over d of |c_d - 1|^(2 alpha)) + mutual_weight * (|G_s|^2 - |G_s * G_t|^2) on
    embeddings (M, D), maps averaged over their positions: sums over columns and over the M^2 pairs of trace-one
    similarity matrices. The student is projected linearly onto the teacher's channels; the second term sees the
    projection only where the widths differ. The defaults are the authors' on CIFAR-100 between
    architectures; within one they take mutual_weight 1.

    Differs from: a constant column counts as uncorrelated, where the authors' code gives NaN
    (test_constant_columns_count_as_uncorrelated). The entropies' logarithms are absent from the code, and so here;
    `takes_logarithm: true` has them (test_logarithms_are_those_of_the_two_sums). Other values are the code's
    (golden itrd), including c_d = 1 - 1/M at its best.
    """

    class Config(EmbeddingConfig):
        """Settings of ITRD."""

        alpha: float = Field(default=1.5, gt=0)  # authors' --alpha_it, 1.01 to 1.5
        correlation_weight: float = Field(default=2.0, ge=0)  # authors' --lambda_corr
        mutual_weight: float = Field(default=0.05, ge=0)  # authors' --lambda_mutual; 1 within an architecture
        takes_logarithm: bool = False

    paper = Paper(
        authors="Miles, Lopez Rodriguez, Mikolajczyk",
        title="Information Theoretic Representation Distillation",
        venue="BMVC",
        year=2022,
        arxiv="2112.00459",
    )
    taps = Taps(student=("embedding",), teacher=("embedding",))
    rows = "related"
    default_loss = LossWeights(
        task=1.0, distill=1.0, source="ITRD helper/loops.py: CE + 2.0 correlation + 0.05 mutual (CIFAR-100)"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.projector = linear_connector(*embedding_channels(context, config))

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The one tap of either side."""
        return embedding_taps(config)

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "correlation" and "mutual", weighted."""
        settings = self.config
        student, teacher = embeddings(pairing, settings)
        projected = self.projector(student)
        compared = student if student.shape == teacher.shape else projected
        correlation = itrd_correlation_loss(projected, teacher, alpha=settings.alpha)
        mutual = itrd_mutual_loss(compared, teacher, takes_logarithm=settings.takes_logarithm)
        return {
            "correlation": settings.correlation_weight * correlation,
            "mutual": settings.mutual_weight * mutual,
        }
