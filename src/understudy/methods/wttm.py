"""WTTM: transformed teacher matching, in which samples that the teacher finds ambiguous count more."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper, comparable_logits, refuse_all_but_rows
from understudy.methods.ttm import divergences_to_power

__all__ = ["WTTM", "wttm_loss"]


def wttm_loss(student_logits: Tensor, teacher_logits: Tensor, *, gamma: float = 0.2) -> Tensor:
    """Weighted transformed teacher matching: `ttm_loss` with a weight for each row.

    Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024, section 4:
    1 / M * sum over m of U_m KL(softmax(gamma z_t) || softmax(z_s)), U = sum over c of p_t^gamma, p_t = softmax(z_t).

    Args:
        student_logits: (M, C); half types are raised to float32, wider ones stay.
        teacher_logits: (M, C), no gradient flows into it or into the weights.
        gamma: > 0, the exponent. At 1 every weight is 1; below, U goes from 1 (a certain teacher) to C^(1 - gamma).

    Returns:
        Scalar: sum over classes, mean over rows, which is not divided by the sum of the weights. 0 where z_s is
        gamma z_t and a constant a row.

    Raises:
        UserError: the shapes differ, or the logits are no rows.
    """
    student_logits, teacher_logits = comparable_logits(student_logits, teacher_logits)
    refuse_all_but_rows("wttm", student_logits)
    weights = (gamma * F.log_softmax(teacher_logits, dim=1)).logsumexp(dim=1).exp()  # (M,), of the log probabilities
    return (weights * divergences_to_power(student_logits, teacher_logits, gamma)).mean()


class WTTM(Method, name="wttm"):
    """The student matches the teacher's flattened class probabilities, the more the flatter they are.

    mean over m of U_m KL(softmax(gamma z_t) || softmax(z_s)) on (M, C) logits, U = sum over c of p_t^gamma: sum over
    classes, mean over rows, no T^2. `ttm` is the same without U. Of the authors' settings the README has gamma 0.2
    and weight 4, beside CRD (method: [crd, wttm]) and a task weight of 1; those alone, pair by pair, are in the paper's
    appendix A.4. Since U grows with the number of classes C, so should the weight where C is far below 100.

    Differs from: nothing in value (golden wttm). The authors' code takes the power of probabilities, which is 0 in
    float32 where one underflows; here everything stays in log space
    (test_wttm_counts_probabilities_that_underflow).
    """

    class Config(MethodConfig):
        """Settings of WTTM."""

        gamma: float = Field(default=0.2, gt=0)  # 1 / T; TTM README: --add wttm --ttm_l 0.2

    paper = Paper(
        authors="Zheng, Yang",
        title="Knowledge Distillation Based on Transformed Teacher Matching",
        venue="ICLR",
        year=2024,
        arxiv="2402.11148",
    )
    needs = frozenset({"teacher_logits"})
    default_loss = LossWeights(
        task=1.0, distill=4.0, source="TTM README: -a 4 with --ttm_l 0.2, there beside CRD (vgg13-vgg8)"
    )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "wttm"."""
        assert pairing.teacher_logits is not None
        return {"wttm": wttm_loss(pairing.student_logits, pairing.teacher_logits, gamma=self.config.gamma)}
