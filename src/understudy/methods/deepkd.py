"""DeepKD's losses: KD or DKD in its target and its non-target part, the latter on the teacher's top K classes."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Method, MethodConfig, Paper, comparable_logits
from understudy.methods.logit_std import standardised
from understudy.methods.shared.decoupled import decoupled

__all__ = ["DeepKD", "deepkd_loss", "deepkd_terms"]

FIRST_SHARE = 0.05  # of the classes, which a growing mask begins with


def deepkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    top_k: int | None = None,
    standardise: bool = False,
) -> Tensor:
    """KD apart in TCKD + (1 - p_t) * NCKD, of which NCKD compares only the classes that the teacher finds likely.

    Huang et al., "DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer", NeurIPS 2025. Without a
    mask it is KD, T^2 * KL(teacher || student).

    Args:
        student_logits: (M, C), C >= 3; half types are raised to float32, wider ones stay.
        teacher_logits: (M, C), no gradient flows into it.
        labels: (M,) class numbers in 0..C-1; rows of -1 (unlabelled) count neither in the sum nor in the mean.
        temperature: T > 0, softens both distributions.
        top_k: K, so many classes beside the label's are compared, the likeliest by the teacher; None: all.
        standardise: both sides' logits are standardised row by row first.

    Returns:
        Scalar mean over the labelled rows, in nats; 0 where no row is labelled.

    Raises:
        UserError: the shapes differ, or labels are not one class number per row.
    """
    tckd, nckd = deepkd_terms(
        student_logits,
        teacher_logits,
        labels,
        temperature=temperature,
        kept=top_k,
        standardise=standardise,
    )
    return tckd + nckd


def deepkd_terms(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    kept: Tensor | int | None = None,
    standardise: bool = False,
    by_rest: bool = True,
) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD, each times T^2, means over the labelled rows.

    Args:
        student_logits, teacher_logits, labels, temperature, standardise: as of `deepkd_loss`.
        kept: (M, C) the classes that NCKD compares, that of the label never among them; or K; None: all.
        by_rest: whether a row's NCKD counts by 1 - p_t, as in KD; else whole, as in DKD.

    Raises:
        UserError: as `deepkd_loss`.
    """
    student_logits, teacher_logits = comparable_logits(student_logits, teacher_logits)
    if standardise:
        student_logits, teacher_logits = standardised(student_logits), standardised(teacher_logits)
    rows = decoupled(student_logits, teacher_logits, labels, temperature=temperature, what="deepkd", kept=kept)
    others = rows.rest * rows.others if by_rest else rows.others
    return rows.mean(rows.target) * temperature**2, rows.mean(others) * temperature**2


class DeepKD(Method, name="deepkd"):
    """KD or DKD in two parts, of the label's class and of the others, with a mask on the others that grows.

    On (M, C) logits and (M,) labels, both parts times T^2, sums over classes and means over labelled rows. TCKD is the
    divergence between (p_t, 1 - p_t) of teacher and student, NCKD the one between their distributions over the K
    classes beside the label's that the teacher finds likeliest. `split: kd` adds TCKD + (1 - p_t) NCKD, which without a
    mask is KD; `split: dkd` adds alpha TCKD + beta NCKD over 20 warm-up epochs. With the update deepkd (deepkd+deepkd)
    each part has a momentum of its own, as the task loss has; the mask alone works under any update. Weights are the
    authors' for resnet32x4-resnet8x4 on CIFAR-100: task 0.5 (0.1 for most pairs) and 1 for both parts, with split dkd
    1, alpha 1, beta 8; T 4, on ImageNet 1.

    The mask begins at 5 % of the classes (at least 2) and grows in a straight line, by whole epochs, until the last
    epoch compares all. It follows the teacher's logits and is laid on both sides.

    Differs from the released code in the mask and in (1 - p_t). There K is constant, and no setting of theirs for
    CIFAR-100 has any (`mask: none`); that it grows is the paper's, the line and the 5 % are ours, since its text was
    not at hand. There the label's class is counted among the K, so that K - 1 others are left where the teacher is
    right, and a row that has none left is compared whole; here K are left. There NCKD is the mean of NCKD times the
    mean of 1 - p_t, so that both parts do not add up to KD; here each row has its own, as in DKD's eq. 6. Both equal
    theirs where these are put back (golden deepkd_loss).
    """

    class Config(MethodConfig):
        """Settings of DeepKD's losses."""

        split: Literal["kd", "dkd"] = "kd"  # what the two parts add up to
        alpha: float = Field(default=1.0, ge=0)  # of split dkd: weight of TCKD; 1 in every recipe of mdistiller
        beta: float = Field(default=8.0, ge=0)  # of split dkd: weight of NCKD; mdistiller engine/cfg.py
        temperature: float = Field(default=4.0, gt=0)  # T; mdistiller engine/cfg.py, its ImageNet recipes take 1
        standardise: bool = False  # both sides' logits to mean 0 and deviation 1 first, as in logit_std
        mask: Literal["growing", "constant", "none"] = "growing"  # constant: K classes in every epoch; none: all
        top_k: int | None = Field(default=None, ge=2)  # K, in the first epoch where it grows; None: 5 % of the classes
        mask_epochs: int | None = Field(default=None, ge=1)  # of a growing mask: all by this epoch; None: by the last

        @field_validator("alpha", "beta")
        @classmethod
        def _is_of_dkd(cls, value: float, info: ValidationInfo) -> float:
            _refuse_unread(value, info, "split", ("dkd",), cls.model_fields[str(info.field_name)].default)
            return value

        @field_validator("top_k")
        @classmethod
        def _is_of_a_mask(cls, value: int | None, info: ValidationInfo) -> int | None:
            _refuse_unread(value, info, "mask", ("growing", "constant"), None)
            return value

        @field_validator("mask_epochs")
        @classmethod
        def _is_of_a_growing_mask(cls, value: int | None, info: ValidationInfo) -> int | None:
            _refuse_unread(value, info, "mask", ("growing",), None)
            return value

    paper = Paper(
        authors="Huang, Song, Zhang, Ren",
        title="DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer",
        venue="NeurIPS",
        year=2025,
        arxiv="2505.15133",
    )
    needs = frozenset({"teacher_logits", "hard_labels"})
    streams = MappingProxyType({"tckd": "target", "nckd": "non_target"})
    min_classes = 3  # with two classes there is one other class, and NCKD is identically 0
    default_loss = LossWeights(
        task=0.5, distill=1.0, source="DeepKD's resnet32x4_resnet8x4.yaml: CE 0.5; its KD_WEIGHT is on neither part"
    )

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self._grown = 1.0  # how far a growing mask is on its way to all classes

    @classmethod
    def default_loss_for(cls, config: MethodConfig) -> LossWeights:
        """With split dkd those of DKD."""
        if getattr(config, "split", "kd") == "kd":
            return cls.default_loss
        return LossWeights(task=1.0, distill=1.0, warmup_epochs=20, source="mdistiller engine/cfg.py: CE 1.0")

    def set_epoch(self, epoch: int, num_epochs: int) -> None:
        """Let a growing mask have as many classes as it has in this epoch."""
        last = num_epochs if self.config.mask_epochs is None else self.config.mask_epochs
        self._grown = min((epoch - 1) / max(last - 1, 1), 1.0)

    def follows_epochs(self) -> bool:
        """Only where the mask grows."""
        return bool(self.config.mask == "growing")

    def num_compared(self, num_classes: int) -> int:
        """K in this epoch, of C classes; the C - 1 beside the label's where there is no mask."""
        most, mask, first = num_classes - 1, self.config.mask, self.config.top_k
        if mask == "none":
            return most
        first = min(max(2, round(FIRST_SHARE * num_classes)) if first is None else first, most)
        return first if mask == "constant" else first + round(self._grown * (most - first))

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "tckd" and "nckd"; with split dkd weighted by alpha and beta."""
        assert pairing.teacher_logits is not None
        config, num_classes = self.config, pairing.student_logits.shape[1]
        top_k = self.num_compared(num_classes)
        tckd, nckd = deepkd_terms(
            pairing.student_logits,
            pairing.teacher_logits,
            pairing.labels,
            temperature=config.temperature,
            kept=top_k if top_k < num_classes - 1 else None,
            standardise=config.standardise,
            by_rest=config.split == "kd",
        )
        if config.split == "kd":
            return {"tckd": tckd, "nckd": nckd}
        return {"tckd": config.alpha * tckd, "nckd": config.beta * nckd}


def _refuse_unread(value: Any, info: ValidationInfo, decides: str, readers: tuple[str, ...], default: Any) -> None:
    chosen = info.data.get(decides)
    if value != default and chosen is not None and chosen not in readers:
        raise ValueError(f"belongs to {decides} {' or '.join(readers)}, not to {chosen}; leave it out, got {value!r}")
