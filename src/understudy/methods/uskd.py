"""USKD: soft labels that a student makes for itself, from its own confidence and the ranks of its classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import Context, LossWeights, Method, MethodConfig, Paper, TapShapes, at_least_float32
from understudy.methods.shared.connectors import linear_connector, pooled
from understudy.methods.shared.logits import classes_of, label_cross_entropy, mean_over_labelled, other_classes
from understudy.utils.errors import UserError

__all__ = ["USKD", "uskd_loss"]

_RANK_EPS = 1e-6  # the authors'
_SMOOTHING = 0.1  # of the labels that the auxiliary classifier learns; fixed in the authors' code


def uskd_loss(
    student_logits: Tensor,
    weak_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 0.1,
    mu: float = 0.1,
    ranks_log_student: bool = True,
) -> Tensor:
    """Universal self-knowledge distillation: alpha * target + beta * non-target + mu * weak term, without a teacher.

    Yang et al., ICCV 2023, section 3.3. Target: cross-entropy with the soft label p_s^2 + 1 - mean of p_s^2 over the
    batch. Non-target: cross-entropy over the other classes with Zipf's law, 1 / rank, where a class ranks by
    w_c / (1 - w_y) + s_c / (1 - s_y), w and s the softmax of weak and student logits. Weak: cross-entropy of the weak
    logits with smoothed labels. Soft labels and ranks carry no gradient.

    Args:
        student_logits: (M, C), C >= 3; half types are raised to float32, wider ones stay.
        weak_logits: (M, C) of an auxiliary classifier on an earlier feature.
        labels: (M,) class numbers, rows of -1 (unlabelled) are left out; or (M, C) mixed, of which the two largest
            shares count as labels.
        alpha: weight of the target term.
        beta: weight of the non-target term.
        mu: weight of the weak term.
        ranks_log_student: s is log softmax when classes are ranked, as released; False: softmax, as the paper means.

    Returns:
        Scalar mean over the labelled rows, in nats; 0 where no row is labelled.

    Raises:
        UserError: shapes of the logits differ, or labels have neither shape.
    """
    target, non_target, weak = _terms(student_logits, weak_logits, labels, ranks_log_student)
    return alpha * target + beta * non_target + mu * weak


def _terms(
    student_logits: Tensor, weak_logits: Tensor, labels: Tensor, ranks_log_student: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if weak_logits.shape != student_logits.shape:
        raise UserError(
            f"uskd compares class by class, but its auxiliary logits are {tuple(weak_logits.shape)} and the student's "
            f"{tuple(student_logits.shape)}; give the auxiliary classifier the student's classes"
        )
    student_logits, weak_logits = at_least_float32(student_logits), at_least_float32(weak_logits)
    classes, shares, is_labelled = _label_slots(labels, student_logits)
    log_student = F.log_softmax(student_logits, dim=1)
    log_target = log_student.gather(1, classes)  # (M, K)
    target = -(_soft_targets(log_target.detach(), shares, is_labelled) * log_target).sum(dim=1)
    ranked = log_student if ranks_log_student else log_student.exp()
    weights = _zipf_weights(weak_logits.softmax(dim=1), ranked, classes)  # ranks carry no gradient
    non_target = -(weights * F.log_softmax(other_classes(student_logits, classes), dim=1)).sum(dim=1)
    return (
        mean_over_labelled(target, is_labelled),
        mean_over_labelled(non_target, is_labelled),
        label_cross_entropy(weak_logits, labels, label_smoothing=_SMOOTHING),
    )


def _label_slots(labels: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Label classes and their shares, both (M, K), and which rows have a label; K is 1, or 2 where labels are mixed."""
    classes, is_labelled = classes_of(labels, logits, method="uskd")
    if labels.ndim == 1:
        return classes[:, None], torch.ones_like(logits[:, :1]), is_labelled
    # Stable: among equal shares the lowest class comes first, on every device.
    shares, order = labels.to(logits.dtype).sort(dim=1, descending=True, stable=True)
    return order[:, :2], shares[:, :2], is_labelled


def _soft_targets(log_target: Tensor, shares: Tensor, is_labelled: Tensor) -> Tensor:
    """(M, K): p^2 + share - mean of p^2 over the labelled rows; 0 where the share is 0."""
    squared = (2 * log_target).exp()
    mean = (squared * is_labelled[:, None]).sum(dim=0) / is_labelled.sum().clamp(min=1)
    return (squared + shares - mean) * (shares != 0)


def _zipf_weights(weak: Tensor, strong: Tensor, classes: Tensor) -> Tensor:
    """(M, C-K) weights of the classes that are no label: 1 / rank among all C, then scaled to a sum of 1."""

    def relative(values: Tensor) -> Tensor:
        return values / (1 - values.gather(1, classes).sum(dim=1, keepdim=True) + _RANK_EPS)

    order = (relative(weak) + relative(strong)).argsort(dim=1, descending=True, stable=True)
    ranks = order.argsort(dim=1) + 1
    weights = other_classes(1 / ranks.float(), classes)  # float32 as the authors'; a target needs no more
    return weights / weights.sum(dim=1, keepdim=True)


class USKD(Method, name="uskd"):
    """The student's own confidence and class ranks become its soft labels; there is nothing of a teacher in it.

    alpha * CE(label's soft target) + beta * CE(Zipf weights of the other classes) + mu * CE(auxiliary classifier) on
    (M, C) logits, labels, and the pooled feature (M, D) of an earlier stage, which the auxiliary linear layer maps to
    C classes: sum over classes, mean over labelled rows. Added to a task loss of weight 1. Defaults alpha 0.1,
    beta 0.1, mu 0.1 are the authors' on CIFAR-100; on ImageNet they take 1, 0.1 and 0.005. Rows are related: the soft
    target is measured against the batch's mean.

    Differs from: the paper ranks classes by two softmaxes, the released code by a softmax and a log softmax, and so
    do we; `ranks_log_student: false` gives the paper's (test_the_two_rankings_disagree_on_some_rows). Unlabelled rows
    (-1) are left out. The authors' ResNet-18 taps the third of its four stages: ours is the last but one.
    """

    class Config(MethodConfig):
        """Settings of USKD."""

        alpha: float = Field(default=0.1, ge=0)  # cls_KD res18_sd_cifar.py; 1 on ImageNet
        beta: float = Field(default=0.1, ge=0)  # the same file; 0.1 on ImageNet
        mu: float = Field(default=0.1, ge=0)  # the same file; 0.005 on ImageNet
        ranks_log_student: bool = True  # as released
        student_tap: str | None = None  # where the auxiliary classifier looks; None: the last stage but one

    paper = Paper(
        authors="Yang, Zeng, Li, Zhang, Yuan, Li",
        title="From Knowledge Distillation to Self-Knowledge Distillation: "
        "A Unified Approach with Normalized Loss and Customized Soft Labels",
        venue="ICCV",
        year=2023,
        arxiv="2303.13005",
    )
    taps = Taps(student=("stages",))
    rows = "related"
    min_classes = 3  # with two classes there is one other class, and its cross-entropy is identically 0
    default_loss = LossWeights(task=1.0, distill=1.0, source="cls_KD res18_sd_cifar.py: CE + USKD")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.tap = _tap(context.student, config.student_tap)
        self.weak_classifier = linear_connector(context.student[self.tap].channels, context.num_classes)

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The named tap, or all stages."""
        assert isinstance(config, cls.Config)
        return cls.taps if config.student_tap is None else Taps(student=(config.student_tap,))

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "target", "non_target" and "weak", weighted by alpha, beta and mu."""
        settings = self.config
        weak_logits = self.weak_classifier(pooled(pairing.student_features[self.tap]))
        target, non_target, weak = _terms(
            pairing.student_logits, weak_logits, pairing.labels, settings.ranks_log_student
        )
        return {"target": settings.alpha * target, "non_target": settings.beta * non_target, "weak": settings.mu * weak}


def _tap(shapes: TapShapes, name: str | None) -> str:
    if name is None:
        stages = [tap for tap in shapes if tap.startswith("stages.")]
        if len(stages) < 2:
            raise UserError(
                f"method 'uskd' puts a classifier on the student's last stage but one, and the student has "
                f"{len(stages)}; set method.student_tap to a module in its middle"
            )
        return stages[-2]
    if name not in shapes:
        raise UserError(
            f"method.student_tap {name!r} of 'uskd' stands for several features ({', '.join(shapes)}); name one"
        )
    return name
