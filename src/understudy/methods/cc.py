"""CC: embedded students and teachers correlate alike over a batch."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import Context, LossWeights, Method, MethodConfig, Paper, at_least_float32
from understudy.methods.shared.connectors import linear_connector
from understudy.methods.shared.relations import (
    EmbeddingConfig,
    embedding_channels,
    embedding_taps,
    embeddings,
    inner_products,
    sample_rows,
)
from understudy.utils.errors import UserError, unknown_name

__all__ = ["CC", "Kernel", "cc_kernel_loss", "cc_loss"]

Kernel = Literal["gaussian", "bilinear"]


def cc_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Product of the differences of neighbouring rows: what the field calls correlation congruence.

    RepDistiller's form of Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019:
    1 / (M - 1) * sum over m < M, d of |s - t|_{m,d} |s - t|_{m+1,d}. It depends on the order of the rows.

    Args:
        student_embedding: (M, D) or (M, D, H, W); half types are raised to float32, wider ones stay.
        teacher_embedding: of the same shape, embedded by a layer that is trained too, so gradient flows into it.

    Returns:
        Scalar: sum over D, mean over the M - 1 neighbours; 0 for one row.

    Raises:
        UserError: the shapes differ.
    """
    student, teacher = _comparable(student_embedding, teacher_embedding)
    differences = (student - teacher).abs()
    return (differences[:-1] * differences[1:]).sum() / max(len(differences) - 1, 1)


def cc_kernel_loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    *,
    kernel: Kernel = "gaussian",
    gamma: float = 0.4,
    order: int = 2,
    is_mean: bool = True,
    squared: bool = False,
) -> Tensor:
    """Distance between the kernel matrices of a batch, the form of the paper.

    Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019, eq. 6 to 10: |K_s - K_t| / M^2 with
    K = <x_i, x_j>, or the Gaussian kernel's Taylor series e^(-2 gamma) sum_p (2 gamma <x_i, x_j>)^p / p!, which
    supposes rows of length 1.

    Args:
        student_embedding: (M, D) or (M, D, H, W); half types are raised to float32, wider ones stay.
        teacher_embedding: of the same shape, embedded by a layer that may be trained, so gradient flows into it.
        kernel: "gaussian" or "bilinear".
        gamma: of the Gaussian kernel, > 0.
        order: last p of its series.
        is_mean: divide by M^2.
        squared: the squared Frobenius norm, as in the paper; torchdistill takes the norm itself.

    Returns:
        Scalar, dimensionless.

    Raises:
        UserError: the shapes differ, or an unknown kernel.
    """
    student, teacher = _comparable(student_embedding, teacher_embedding)
    difference = _kernel_matrix(student, kernel, gamma, order) - _kernel_matrix(teacher, kernel, gamma, order)
    distance = difference.square().sum() if squared else torch.linalg.vector_norm(difference)
    return distance / len(student) ** 2 if is_mean else distance


def _comparable(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.shape != teacher.shape:
        raise UserError(
            f"cc compares embeddings of one size, but the student's are {tuple(student.shape)} and the teacher's "
            f"{tuple(teacher.shape)}; embed both with the same number of channels first"
        )
    return sample_rows(student), sample_rows(teacher)


def _kernel_matrix(rows: Tensor, kernel: Kernel, gamma: float, order: int) -> Tensor:
    products = inner_products(rows, rows)  # (M, M)
    if kernel == "bilinear":
        return products
    if kernel == "gaussian":
        power = torch.full_like(products, math.exp(-2 * gamma))
        series = power
        for p in range(1, order + 1):
            power = power * products * (2 * gamma / p)
            series = series + power
        return series
    raise UserError(f"kernel {kernel!r} is {unknown_name(kernel, get_args(Kernel))}")


class CC(Method, name="cc"):
    """Student and teacher, both embedded by a trained layer, correlate alike over a batch.

    form "pairs": 1 / (M - 1) * sum of |s - t|_m |s - t|_{m+1} over neighbouring rows of embeddings (M, D): what
    RepDistiller calls CC and the field's tables hold. Permuting the batch changes it. forms "gaussian" and
    "bilinear": |K_s - K_t|_F / M^2 between kernel matrices of unit rows, the paper's and torchdistill's; these do
    not depend on the order. Weights 1 task and 0.02, for form "pairs", are RepDistiller's on CIFAR-100; the kernel
    forms come out about a thousand times smaller and want a `weight` of their own.

    Differs from: nothing in value (golden cc, cc_torchdistill), but torchdistill leaves it to its user that rows have
    length 1. The paper squares the norm, torchdistill does not, and so neither do we; `squared: true` gives the
    paper's (test_squared_is_the_square_of_the_norm). Both embeddings are trained, as in RepDistiller, so a constant
    embedding is a trivial optimum. One row gives 0 instead of NaN.
    """

    class Config(EmbeddingConfig):
        """Settings of CC."""

        form: Literal["pairs", "gaussian", "bilinear"] = "pairs"  # RepDistiller's; the others are torchdistill's
        embedding_dim: int = Field(default=128, ge=1)  # RepDistiller --feat_dim
        gamma: float = Field(default=0.4, gt=0)  # the paper's, of form gaussian
        order: int = Field(default=2, ge=1)  # the paper's, of form gaussian
        squared: bool = False  # of the kernel forms

    paper = Paper(
        authors="Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang",
        title="Correlation Congruence for Knowledge Distillation",
        venue="ICCV",
        year=2019,
        arxiv="1904.01802",
    )
    taps = Taps(student=("embedding",), teacher=("embedding",))
    rows = "related"
    default_loss = LossWeights(task=1.0, distill=0.02, source="RepDistiller run_cifar_distill.sh: CE 1, CC 0.02")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        student_channels, teacher_channels = embedding_channels(context, config)
        self.student_embedding = linear_connector(student_channels, config.embedding_dim)
        self.teacher_embedding = linear_connector(teacher_channels, config.embedding_dim)

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The one tap of either side."""
        return embedding_taps(config)

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "cc"."""
        settings = self.config
        student_features, teacher_features = embeddings(pairing, settings)
        student, teacher = self.student_embedding(student_features), self.teacher_embedding(teacher_features)
        if settings.form == "pairs":
            return {"cc": cc_loss(student, teacher)}
        # Float16's smallest numbers are larger than normalize's eps, so it is raised before.
        student, teacher = (F.normalize(at_least_float32(features), dim=1) for features in (student, teacher))
        loss = cc_kernel_loss(
            student,
            teacher,
            kernel=settings.form,
            gamma=settings.gamma,
            order=settings.order,
            squared=settings.squared,
        )
        return {"cc": loss}
