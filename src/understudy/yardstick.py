"""The yardstick: what is measured for every row alike, whatever it is trained by."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.methods.kd import kd_loss
from understudy.step import Pairing

__all__ = ["common_measures", "num_labelled"]

TEMPERATURE = 4.0  # one for all rows, whatever temperature their own method uses


def num_labelled(pairing: Pairing) -> Tensor:
    """() how many rows carry a label and are no copies: what task loss and top-1 are means of."""
    labels = pairing.labels if pairing.copies is None else pairing.labels[pairing.copies == 0]
    if labels.ndim == 2:
        return torch.full((), len(labels), device=labels.device)
    return torch.count_nonzero(labels >= 0)


def common_measures(pairing: Pairing) -> dict[str, Tensor]:
    """What is measured for every row alike, without gradient: the yardstick and top-1 on the training batch.

    The yardstick is KL(teacher || student) at T = 4, summed over classes, mean over rows, in nats (no T^2).
    """
    measures: dict[str, Tensor] = {}
    with torch.no_grad():
        plain = slice(None) if pairing.copies is None else pairing.copies == 0
        said, labels = pairing.student_logits.detach()[plain], pairing.labels[plain]
        seen = None if pairing.teacher_logits is None else pairing.teacher_logits[plain]
        hard = labels if labels.ndim == 1 else labels.argmax(dim=1)
        measures["top1"] = 100.0 * (said.argmax(dim=1) == hard).sum() / num_labelled(pairing).clamp_min(1)
        if seen is not None and seen.shape == said.shape:
            loss = kd_loss(said, seen, temperature=TEMPERATURE)
            measures["kl_to_teacher"] = loss / TEMPERATURE**2
    return measures
