"""Every loss on logits as a function of (student logits, teacher logits, labels)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from understudy.methods.ctkd import ctkd_loss
from understudy.methods.deepkd import deepkd_loss
from understudy.methods.dist import dist_loss
from understudy.methods.dist_kl import dist_kl_loss
from understudy.methods.dist_rank import dist_rank_loss
from understudy.methods.dkd import dkd_loss
from understudy.methods.kd import kd_loss
from understudy.methods.logit_std import logit_std_loss
from understudy.methods.losses.kd_variants import takd_objective
from understudy.methods.losses.token import deit_hard_loss
from understudy.methods.mlld import mlld_loss
from understudy.methods.nkd import nkd_loss
from understudy.methods.ofa import ofa_loss
from understudy.methods.rld import rld_loss
from understudy.methods.skd_streamlined import skd_streamlined_loss
from understudy.methods.spherical import spherical_loss
from understudy.methods.tfkd import tfkd_loss
from understudy.methods.ttm import ttm_loss
from understudy.methods.uskd import uskd_loss
from understudy.methods.wttm import wttm_loss

LogitLoss = Callable[[Tensor, Tensor, Tensor], Tensor]

CORE: dict[str, LogitLoss] = {
    "kd": lambda student, teacher, labels: kd_loss(student, teacher),
    "kd_sigmoid": lambda student, teacher, labels: kd_loss(student, teacher, activation="sigmoid"),
    "kd_t1": lambda student, teacher, labels: kd_loss(student, teacher, temperature=1),
    "dkd": dkd_loss,
    "dkd_t1": lambda student, teacher, labels: dkd_loss(student, teacher, labels, temperature=1),
    "dist": lambda student, teacher, labels: dist_loss(student, teacher),
    "dist_t4": lambda student, teacher, labels: dist_loss(student, teacher, tau=4),
    "dist_cosine": lambda student, teacher, labels: dist_loss(student, teacher, eps_mode="cosine"),
}
RIVALS: dict[str, LogitLoss] = {
    "mlld": lambda student, teacher, labels: mlld_loss(student, student.flip(1), teacher, teacher.flip(1)),
    "nkd": nkd_loss,
    "nkd_t1": lambda student, teacher, labels: nkd_loss(student, teacher, labels, gamma=1.5, temperature=1),
    "ofa": ofa_loss,
    "ofa_enhanced": lambda student, teacher, labels: ofa_loss(student, teacher, labels, epsilon=1.5, temperature=2),
    "uskd": lambda student, teacher, labels: uskd_loss(student, teacher.detach(), labels),
    "uskd_paper": lambda student, teacher, labels: uskd_loss(
        student, teacher.detach(), labels, ranks_log_student=False
    ),
    "spherical": spherical_loss,
    "spherical_layer_norm": lambda student, teacher, labels: spherical_loss(
        student, teacher, labels, sphere="layer_norm"
    ),
    "logit_std": lambda student, teacher, labels: logit_std_loss(student, teacher),
    "tfkd": lambda student, teacher, labels: tfkd_loss(student, labels),
    "tfkd_smoothing": lambda student, teacher, labels: tfkd_loss(student, labels, regulariser="label_smoothing"),
    "ctkd": lambda student, teacher, labels: ctkd_loss(student, teacher, torch.ones((), dtype=student.dtype)),
    "deepkd": deepkd_loss,
    "deepkd_masked": lambda student, teacher, labels: deepkd_loss(student, teacher, labels, top_k=2),
    "deepkd_standardised": lambda student, teacher, labels: deepkd_loss(student, teacher, labels, standardise=True),
    "dist_kl": lambda student, teacher, labels: dist_kl_loss(student, teacher),
    "dist_rank": lambda student, teacher, labels: dist_rank_loss(student, teacher),
    "takd": takd_objective,
    "rld": rld_loss,
    "rld_standardised": lambda student, teacher, labels: rld_loss(student, teacher, labels, standardises=True),
    "skd_streamlined": lambda student, teacher, labels: skd_streamlined_loss(student, teacher),
    "skd_streamlined_paper": lambda student, teacher, labels: skd_streamlined_loss(student, teacher, form="paper"),
    "ttm": lambda student, teacher, labels: ttm_loss(student, teacher),
    "wttm": lambda student, teacher, labels: wttm_loss(student, teacher),
    "deit_hard": lambda student, teacher, labels: deit_hard_loss(student, teacher),
}

EVERY = CORE | RIVALS
