"""Our answers to the successors of DOT and KD: DeepKD's losses in two parts."""

from __future__ import annotations

import torch
from answers import answers
from cases import Case
from torch import Tensor

from understudy.methods.deepkd import deepkd_terms
from understudy.methods.logit_std import standardised
from understudy.methods.shared.decoupled import Decoupled, decoupled


@answers("deepkd_loss")
def deepkd_loss(case: Case) -> dict[str, Tensor]:
    """With the two slips of the released code put back: what K counts, and a mean of 1 - p_t instead of each row's."""
    hyper, labels = case.hyper, case["target"]
    masked = _masked_as_released(case["teacher_logits"], labels, hyper["topk"])
    tckd, nckd = deepkd_terms(
        case["student_logits"], case["teacher_logits"], labels, temperature=hyper["temperature"],
        kept=~masked if hyper["topk"] else None, standardise=hyper["logit_stand"], by_rest=False,
    )  # fmt: skip
    if hyper["topk"]:
        nckd = nckd + _rows_with_none_left(case, masked)
    if hyper["dkd"]:
        warmed = min(hyper["epoch"] / hyper["warmup"], 1.0)
        tckd, nckd = hyper["alpha"] * warmed * tckd, hyper["beta"] * warmed * nckd
        unreduced = nckd
    else:
        unreduced = _decoupled(case).rest[:, None] * nckd
        nckd = unreduced.mean()
    gradients = {
        f"grad_{name}": torch.autograd.grad(part, case["student_logits"], retain_graph=True)[0]
        for name, part in (("tckd", tckd), ("nckd", nckd))
    }
    parts = {"loss": tckd + nckd, "tckd": tckd, "nckd": nckd, "nckd_unreduced": unreduced, "mask": masked}
    return parts | gradients


def _masked_as_released(teacher: Tensor, labels: Tensor, top_k: int) -> Tensor:
    """(M, C) true at all but the K likeliest classes, the label's counted among them, and at the label's."""
    is_top = torch.zeros_like(teacher, dtype=torch.bool).scatter(1, teacher.topk(top_k, dim=1).indices, True)
    return (~is_top).scatter(1, labels[:, None], True)


def _rows_with_none_left(case: Case, masked: Tensor) -> Tensor:
    """What those add to NCKD, where the released code compares a row's whole distributions and ours has 0."""
    rows = _decoupled(case)
    return rows.mean((rows.target + rows.rest * rows.others) * masked.all(1)) * case.hyper["temperature"] ** 2


def _decoupled(case: Case) -> Decoupled:
    logits = case["student_logits"], case["teacher_logits"]
    if case.hyper["logit_stand"]:
        logits = standardised(logits[0]), standardised(logits[1])
    return decoupled(*logits, case["target"], temperature=case.hyper["temperature"], what="deepkd")
