"""MLLD: the teacher's logits at several temperatures, row by row, between rows and between classes, on two views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, field_validator
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper, comparable_logits, refuse_all_but_rows
from understudy.methods.kd import kd_loss
from understudy.methods.shared.logits import label_cross_entropy
from understudy.methods.shared.relations import inner_products
from understudy.utils.errors import UserError

__all__ = ["MLLD", "mlld_loss"]

_TEMPERATURES = (4.0, 3.0, 5.0, 2.0, 6.0)  # the authors'
_ON_STRONG_VIEW = 3  # temperatures at which the strong view is compared in the released code


def mlld_loss(
    student_weak: Tensor,
    student_strong: Tensor,
    teacher_weak: Tensor,
    teacher_strong: Tensor,
    *,
    temperatures: Sequence[float] = _TEMPERATURES,
    strong_throughout: bool = False,
) -> Tensor:
    """Multi-level logit distillation as released: instance, class and batch terms, all of weight 1.

    Jin et al., "Multi-level Logit Distillation", CVPR 2023. Over the temperatures T, w and s the two views:
    instance: r * sum of T^2 KL(w) + sum over the first three of T^2 KL(s) + sum over the others of T^2 KL(w);
    class: k * sum of |P_t' P_t - P_s' P_s|^2 / C; batch: r * sum of |P_t P_t' - P_s P_s'|^2 / M, P the softmax at T of
    the weak view, |.|^2 the sum of squares. r is the share of rows of which the teacher is at most as sure as of the
    median one, k likewise of classes.

    Args:
        student_weak: (M, C) on the weakly augmented view; half types are raised to float32, wider ones stay.
        student_strong: (M, C) on the strongly augmented one.
        teacher_weak: (M, C), no gradient flows into it.
        teacher_strong: (M, C), no gradient flows into it.
        temperatures: each > 0.
        strong_throughout: the second sum of the instance term is of the strong view at every temperature.

    Returns:
        Scalar: sums over classes, temperatures and pairs, means over the M rows or C classes; instance in nats.

    Raises:
        UserError: shapes of the two sides differ, or are no rows.
    """
    terms = _terms(student_weak, student_strong, teacher_weak, teacher_strong, temperatures, strong_throughout)
    return torch.stack(terms).sum()


def _terms(
    student_weak: Tensor,
    student_strong: Tensor,
    teacher_weak: Tensor,
    teacher_strong: Tensor,
    temperatures: Sequence[float],
    strong_throughout: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The instance, class and batch terms."""
    refuse_all_but_rows("mlld", student_weak, student_strong, teacher_weak, teacher_strong)
    weak = comparable_logits(student_weak, teacher_weak)
    strong = comparable_logits(student_strong, teacher_strong)
    confidence = weak[1].softmax(dim=1)
    unsure_rows, rare_classes = _share_up_to_median(confidence.amax(dim=1)), _share_up_to_median(confidence.sum(dim=0))
    last_on_strong = len(temperatures) if strong_throughout else _ON_STRONG_VIEW
    instance, of_classes, of_rows = [], [], []
    for number, temperature in enumerate(temperatures):
        on_weak = kd_loss(*weak, temperature=temperature)
        second = kd_loss(*strong, temperature=temperature) if number < last_on_strong else on_weak
        instance.append(unsure_rows * on_weak + second)
        student, teacher = ((logits / temperature).softmax(dim=1) for logits in weak)
        of_classes.append(_gram_distance(student.mT, teacher.mT))
        of_rows.append(_gram_distance(student, teacher))
    return (
        torch.stack(instance).sum(),
        rare_classes * torch.stack(of_classes).sum(),
        unsure_rows * torch.stack(of_rows).sum(),
    )


def _share_up_to_median(values: Tensor) -> Tensor:
    """() of (N,) values; of an even number the median lies in the middle of two."""
    ordered = values.sort().values
    median = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2
    return (values <= median).to(values.dtype).mean()


def _gram_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum of squared differences between inner products of all (N, D) rows, over N."""
    apart = inner_products(student, student) - inner_products(teacher, teacher)
    return apart.square().sum() / len(student)


class MLLD(Method, name="mlld"):
    """The teacher's logits at five temperatures, also between images and between classes, on a weak and a strong view.

    kd_weight * (instance + class + batch terms) (`mlld_loss`) on (M, C) logits of both views + label_weight *
    cross-entropy of the strong one; the task's own, of weight 0.1, is of the weak one. Sums over classes,
    temperatures and pairs, means over rows or classes. Rows are related. It needs `data.copies: pairs`, of which
    `data.second_augment` makes the second view a strong one (the authors' RandAugment(2, 10) after crop and flip);
    rivals do not see such views, and part of what it gains is theirs. Weights and temperatures are the authors' on
    CIFAR-100; they train with a rate of 0.025 for 240 epochs or, between architectures, of 0.01 or 0.0025
    for 480 (the shipped recipes cifar100/mlld).

    Differs from: nothing in value from the released code (golden mlld), which made the paper's numbers and slips in
    three places. What is meant to choose unsure rows and rare classes multiplies means over all of them, and so only
    scales them by the chosen share, about a half (test_masks_of_the_released_code_only_scale). The second instance sum
    takes the weak view at T = 2 and 6; `strong_throughout: true` takes the strong one. Class and batch terms of the
    strong view are computed there and not used; here they are left out. Rows without a label (-1) count in all terms
    but the cross-entropy.
    """

    class Config(MethodConfig):
        """Settings of MLLD."""

        temperatures: tuple[float, ...] = _TEMPERATURES  # KD.TEMPERATURE and four fixed in KD_ours.py
        label_weight: float = Field(default=0.1, ge=0)  # of the strong view's labels: mdistiller's KD CE_WEIGHT
        kd_weight: float = Field(default=0.9, ge=0)  # of all other terms: mdistiller's KD KD_WEIGHT
        strong_throughout: bool = False  # as released

        @field_validator("temperatures")
        @classmethod
        def _are_positive(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
            if not temperatures or min(temperatures) <= 0:
                raise ValueError(f"must be numbers above 0, at least one, got {list(temperatures)}")
            return temperatures

    paper = Paper(
        authors="Jin, Wang, Lin",
        title="Multi-level Logit Distillation",
        venue="CVPR",
        year=2023,
    )
    needs = frozenset({"teacher_logits", "pairs"})
    rows = "related"
    default_loss = LossWeights(
        task=0.1, distill=1.0, source="Multi-Level-Logit-Distillation KD_ours.py: CE 0.1 on both views, all else 0.9"
    )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "instance", "class", "batch" and "strong_labels", weighted."""
        assert pairing.teacher_logits is not None
        settings, views = self.config, _views(pairing)
        (student_weak, student_strong), (teacher_weak, teacher_strong), labels = (
            values[views] for values in (pairing.student_logits, pairing.teacher_logits, pairing.labels)
        )
        instance, of_classes, of_rows = _terms(
            student_weak,
            student_strong,
            teacher_weak,
            teacher_strong,
            settings.temperatures,
            settings.strong_throughout,
        )
        return {
            "instance": settings.kd_weight * instance,
            "class": settings.kd_weight * of_classes,
            "batch": settings.kd_weight * of_rows,
            "strong_labels": settings.label_weight * label_cross_entropy(student_strong, labels[1]),
        }


def _views(pairing: Pairing) -> Tensor:
    """(2, M / 2) places of the rows of either view.

    Raises:
        UserError: there are no two views of each image.
    """
    if pairing.copies is None or len(pairing.copies) % 2:
        raise UserError(
            f"method 'mlld' compares two views of each image, and these are {len(pairing.labels)} rows without; set "
            "data.copies=pairs, or give every sample of a batch in both"
        )
    return pairing.copies.argsort(stable=True).view(2, -1)
