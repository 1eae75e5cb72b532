"""TTM: the student, at temperature 1, matches the teacher's class probabilities raised to a power."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper, comparable_logits, refuse_all_but_rows

__all__ = ["TTM", "divergences_to_power", "ttm_loss"]


def ttm_loss(student_logits: Tensor, teacher_logits: Tensor, *, gamma: float = 0.1) -> Tensor:
    """Transformed teacher matching: KL from the teacher's probabilities, raised to a power, to the student's.

    Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024, section 3:
    1 / M * sum over m, c of q (log q - log p_s), q = softmax(gamma z_t), p_s = softmax(z_s). KD with T = 1 / gamma on
    the teacher's side alone, and no T^2.

    Args:
        student_logits: (M, C); half types are raised to float32, wider ones stay.
        teacher_logits: (M, C), no gradient flows into it.
        gamma: > 0, the exponent. 1 is KD at temperature 1; smaller ones flatten the teacher.

    Returns:
        Scalar in nats: sum over classes, mean over rows. 0 where z_s is gamma z_t and a constant a row; so a student
        that equals its teacher has a loss of its own unless gamma is 1.

    Raises:
        UserError: the shapes differ, or the logits are no rows.
    """
    student_logits, teacher_logits = comparable_logits(student_logits, teacher_logits)
    refuse_all_but_rows("ttm", student_logits)
    return divergences_to_power(student_logits, teacher_logits, gamma).mean()


def divergences_to_power(student_logits: Tensor, teacher_logits: Tensor, gamma: float) -> Tensor:
    """KL(softmax(gamma z_t) || softmax(z_s)) of each row of (M, C) logits in at least float32: (M,), in nats."""
    log_student, log_teacher = F.log_softmax(student_logits, dim=1), F.log_softmax(gamma * teacher_logits, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)


class TTM(Method, name="ttm"):
    """The student matches the teacher's flattened class probabilities without being flattened itself.

    KL(softmax(gamma z_t) || softmax(z_s)) on (M, C) logits: sum over classes, mean over rows, no T^2. Where KD softens
    both sides, this softens the teacher's alone, which amounts to KD and a Renyi entropy that regularises the student
    (the paper's section 3). `wttm` weighs each sample besides. Defaults gamma 0.1 and weight 45 beside a task weight
    of 1 are the authors' command for vgg13-vgg8 on CIFAR-100; the paper has a pair's own in its appendix A.4. That
    weight is for 100 classes: on the demo's ten digits, under a teacher of two epochs, resnet8 stayed at chance with 45
    and did not with 4. No label is read, so a bank, positions of masks and mixed labels do as for kd.

    Differs from: nothing in value (golden ttm). The authors' code takes the power of probabilities, which is 0 in
    float32 where one underflows; here logits are multiplied
    (test_ttm_keeps_the_power_of_a_probability_that_underflows).
    """

    class Config(MethodConfig):
        """Settings of TTM."""

        gamma: float = Field(default=0.1, gt=0)  # 1 / T; TTM README: --ttm_l 0.1

    paper = Paper(
        authors="Zheng, Yang",
        title="Knowledge Distillation Based on Transformed Teacher Matching",
        venue="ICLR",
        year=2024,
        arxiv="2402.11148",
    )
    needs = frozenset({"teacher_logits"})
    default_loss = LossWeights(task=1.0, distill=45.0, source="TTM README: -r 1 -b 45 with --ttm_l 0.1 (vgg13-vgg8)")

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "ttm"."""
        assert pairing.teacher_logits is not None
        return {"ttm": ttm_loss(pairing.student_logits, pairing.teacher_logits, gamma=self.config.gamma)}
