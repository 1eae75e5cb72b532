"""SSKD: what the teacher says of rotated images, and which rotated image it finds like which plain one."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.core.precision import widest_dtype
from understudy.core.taps import Taps
from understudy.methods.base import (
    Context,
    LossWeights,
    Method,
    MethodConfig,
    Need,
    Paper,
    at_least_float32,
    comparable_logits,
    refuse_all_but_rows,
)
from understudy.methods.kd import kd_loss
from understudy.methods.shared.connectors import mlp_connector
from understudy.methods.shared.relations import (
    EmbeddingConfig,
    embedding_channels,
    embedding_taps,
    embeddings,
    inner_products,
    rows_by_copy,
)
from understudy.utils.errors import UserError

__all__ = ["SSKD", "kept_kd_loss", "kept_rows", "similarities", "similarity_labels", "sskd_loss"]

_HEAD_LOSS = LossWeights(task=0.0, distill=1.0, source="SSKD: the backbone is frozen, cross-entropy of the head alone")


def sskd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_embeddings: Tensor,
    teacher_embeddings: Tensor,
    labels: Tensor,
    *,
    kd_weight: float = 0.9,
    transformed_weight: float = 2.7,
    similarity_weight: float = 10.0,
    temperature: float = 4.0,
    transformed_temperature: float = 4.0,
    similarity_temperature: float = 0.5,
    transformed_ratio: float = 1.0,
    similarity_ratio: float = 0.75,
) -> Tensor:
    """Knowledge distillation meets self-supervision: KD on plain images, KD on rotated ones, similarity KD.

    Xu et al., "Knowledge Distillation Meets Self-Supervision", ECCV 2020, eq. 3 to 8: w_kd T^2 KL on plain images
    + w_tf T_tf^2 KL on rotated ones + w_ss T_ss^2 KL between the softmax over plain images of cosines with a rotated
    one. Of the rotated ones those are kept that the teacher gets right, and a share of the others, in the order of
    the rank that it gives the right answer; at equal rank, the more probable one first.

    Args:
        student_logits: (R, B, C), R copies of B images, the plain ones first; half types are raised to float32.
        teacher_logits: (R, B, C), no gradient flows into it.
        student_embeddings: (R, B, D_s) from the self-supervised head.
        teacher_embeddings: (R, B, D_t), D_t may differ; no gradient flows into it.
        labels: (B,) classes; rotations of images of -1 (unlabelled) count as right.
        kd_weight: w_kd.
        transformed_weight: w_tf.
        similarity_weight: w_ss.
        temperature: T > 0.
        transformed_temperature: T_tf > 0.
        similarity_temperature: T_ss > 0.
        transformed_ratio: share of the wrong rows that is kept in the second term.
        similarity_ratio: the same in the third; right is the image that was rotated.

    Returns:
        Scalar in nats: sums over classes (images), means over the rows kept.

    Raises:
        UserError: the logits' shapes differ.
    """
    turned_student, turned_teacher = student_logits[1:].flatten(0, 1), teacher_logits[1:].flatten(0, 1)
    turned_labels = labels.repeat(len(student_logits) - 1)
    student_scores, teacher_scores = similarities(student_embeddings), similarities(teacher_embeddings.detach())
    kd = kd_loss(student_logits[0], teacher_logits[0], temperature=temperature)
    transformed = kept_kd_loss(
        turned_student, turned_teacher, turned_labels, temperature=transformed_temperature, ratio=transformed_ratio
    )
    similarity = kept_kd_loss(
        student_scores,
        teacher_scores,
        similarity_labels(teacher_scores),
        temperature=similarity_temperature,
        ratio=similarity_ratio,
    )
    return kd_weight * kd + transformed_weight * transformed + similarity_weight * similarity


def similarities(embeddings: Tensor) -> Tensor:
    """Cosines of each rotated image with each plain one.

    Args:
        embeddings: (R, B, D), the plain images first.

    Returns:
        ((R-1)B, B), at least float32; copy by copy, image by image.
    """
    if embeddings.ndim != 3:
        raise UserError(
            f"sskd compares embeddings (R, B, D), copy by copy, but got {tuple(embeddings.shape)}; average maps over "
            "their positions first"
        )
    rows = F.normalize(at_least_float32(embeddings), dim=2, eps=1e-8)
    return inner_products(rows[1:].flatten(0, 1), rows[0])


def similarity_labels(scores: Tensor) -> Tensor:
    """For each row of ((R-1)B, B) similarities the place of the image that was rotated, ((R-1)B,)."""
    return torch.arange(len(scores), device=scores.device) % scores.shape[1]


def kept_rows(teacher_scores: Tensor, labels: Tensor, ratio: float) -> Tensor:
    """Which rows the teacher is trusted on: those it gets right, and the least wrong of the others.

    Args:
        teacher_scores: (M, C) logits.
        labels: (M,) right answers; rows of -1 count as got right.
        ratio: share of the wrong rows that is kept, rounded down.

    Returns:
        (M,) booleans.
    """
    target = labels.clamp(min=0)[:, None]
    rank = (teacher_scores > teacher_scores.gather(1, target)).sum(dim=1)  # 0: right
    rank = rank * (labels >= 0)
    dtype = widest_dtype(rank.device)
    wrong = (rank > 0).sum().to(dtype)
    num_kept = len(labels) - wrong + (wrong * ratio).floor()
    probability = teacher_scores.to(dtype).softmax(dim=1).gather(1, target).squeeze(1)
    place = (rank - probability).argsort(stable=True).argsort()
    return place < num_kept


def kept_kd_loss(
    student_scores: Tensor, teacher_scores: Tensor, labels: Tensor, *, temperature: float, ratio: float
) -> Tensor:
    """`kd_loss` on the rows that the teacher is trusted on, see `kept_rows`.

    Args:
        student_scores: (M, C) logits; half types are raised to float32.
        teacher_scores: (M, C), no gradient flows into it.
        labels: (M,) right answers, -1 where unknown.
        temperature: T > 0.
        ratio: share of the wrong rows that is kept.

    Returns:
        Scalar T^2 KL in nats: sum over C, mean over the rows kept; 0 where there are none.
    """
    student, teacher = comparable_logits(student_scores, teacher_scores)
    refuse_all_but_rows("kept_kd_loss", student, teacher)
    log_student, log_teacher = (F.log_softmax(scores / temperature, dim=1) for scores in (student, teacher))
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    keep = kept_rows(teacher, labels, ratio)
    return (divergence * keep).sum() / keep.sum().clamp(min=1) * temperature**2


class SSKD(Method, name="sskd"):
    """The student also learns what the teacher says of rotated images, and which it finds alike.

    kd_weight * KD on plain images + transformed_weight * KD on rotated ones + similarity_weight * KD of the cosines
    between rotated and plain images, (3B, B), seen through a two-layer head on either side's embedding. Sums over
    classes or images, means over the rows kept. It needs `data.copies: rotations`. Weights (task 0.1 among them),
    temperatures and ratios are the authors' on CIFAR-100.

    Two runs. `stage: head` trains the teacher-side head alone, by cross-entropy of the cosines against the image that
    was rotated; weights are task 0 and 1, for the student takes no part (the shipped recipe
    cifar100/sskd-head/resnet32x4-resnet8x4). `stage: distill`, with `init_from: RUN`, keeps that head fixed.
    `stage: together` trains the head along with the student, in one run: not the authors' protocol.

    Differs from: rows of equal rank at the cut are ordered by the teacher's probability of the right answer, where
    the authors leave the choice to an unstable sort (test_at_equal_rank_the_more_probable_row_is_kept). Similarities
    come from one matrix product instead of a copy of all (3B, D, B) pairs. Values are otherwise the authors'
    (golden sskd).
    """

    class Config(EmbeddingConfig):
        """Settings of SSKD."""

        stage: Literal["head", "distill", "together"] = "distill"
        kd_weight: float = Field(default=0.9, ge=0)  # authors' student.py, as all that follow
        transformed_weight: float = Field(default=2.7, ge=0)
        similarity_weight: float = Field(default=10.0, ge=0)
        temperature: float = Field(default=4.0, gt=0)
        transformed_temperature: float = Field(default=4.0, gt=0)
        similarity_temperature: float = Field(default=0.5, gt=0)
        transformed_ratio: float = Field(default=1.0, ge=0, le=1)
        similarity_ratio: float = Field(default=0.75, ge=0, le=1)

    student_head: nn.Module

    paper = Paper(
        authors="Xu, Liu, Li, Loy",
        title="Knowledge Distillation Meets Self-Supervision",
        venue="ECCV",
        year=2020,
        arxiv="2006.07114",
    )
    taps = Taps(student=("embedding",), teacher=("embedding",))
    needs = frozenset({"teacher_logits", "hard_labels", "indices", "copies"})
    rows = "related"
    default_loss = LossWeights(
        task=0.1, distill=1.0, source="SSKD student.py: CE 0.1, KD 0.9, TF 2.7, SS 10 (CIFAR-100)"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        if config.stage == "distill" and config.init_from is None:
            raise UserError(
                "method 'sskd' distills through a teacher-side head that is trained first; run it with "
                "method.stage=head and then give that run as method.init_from, or set method.stage=together"
            )
        student_channels, teacher_channels = embedding_channels(context, config)
        self.teacher_head = mlp_connector(teacher_channels, teacher_channels, hidden_channels=teacher_channels)
        if config.stage == "distill":
            self.teacher_head.requires_grad_(False)
        if config.stage != "head":
            self.student_head = mlp_connector(student_channels, student_channels, hidden_channels=student_channels)

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The one tap of either side."""
        return embedding_taps(config)

    @classmethod
    def default_loss_for(cls, config: MethodConfig) -> LossWeights:
        """No task loss while the head is trained: the student takes no part."""
        assert isinstance(config, cls.Config)
        return _HEAD_LOSS if config.stage == "head" else cls.default_loss

    @classmethod
    def needs_for(cls, config: MethodConfig) -> frozenset[Need]:
        """Only the copies while the head is trained."""
        assert isinstance(config, cls.Config)
        return frozenset({"indices", "copies"}) if config.stage == "head" else cls.needs

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "kd", "transformed" and "similarity", weighted; "head" where the teacher's head is trained."""
        assert pairing.copies is not None
        assert pairing.indices is not None
        settings = self.config
        rows = rows_by_copy(pairing.copies, pairing.indices)  # (R, B)
        student, teacher = embeddings(pairing, settings)
        teacher_scores = similarities(self.teacher_head(teacher)[rows])
        targets = similarity_labels(teacher_scores)
        terms: dict[str, Tensor] = {}
        if settings.stage != "distill":
            terms["head"] = F.cross_entropy(teacher_scores, targets)
        if settings.stage != "head":
            student_scores = similarities(self.student_head(student)[rows])
            similarity = kept_kd_loss(
                student_scores,
                teacher_scores,
                targets,
                temperature=settings.similarity_temperature,
                ratio=settings.similarity_ratio,
            )
            terms |= self._on_logits(pairing, rows)
            terms["similarity"] = settings.similarity_weight * similarity
        return terms

    def _on_logits(self, pairing: Pairing, rows: Tensor) -> dict[str, Tensor]:
        """The two terms that need no head."""
        assert pairing.teacher_logits is not None
        settings = self.config
        student, teacher, labels = (
            values[rows] for values in (pairing.student_logits, pairing.teacher_logits, pairing.labels)
        )
        kd = kd_loss(student[0], teacher[0], temperature=settings.temperature)
        transformed = kept_kd_loss(
            student[1:].flatten(0, 1),
            teacher[1:].flatten(0, 1),
            labels[1:].flatten(),
            temperature=settings.transformed_temperature,
            ratio=settings.transformed_ratio,
        )
        return {"kd": settings.kd_weight * kd, "transformed": settings.transformed_weight * transformed}
