"""Our answers to the golden methods of unlike architectures, class attention and several levels: ofa, cat_kd, mlld."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from answers import answers
from cases import Case
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import Context, TapShapes
from understudy.methods.cat_kd import cat_kd_loss
from understudy.methods.mlld import MLLD
from understudy.methods.ofa import ofa_loss


@answers("ofa")
def ofa(case: Case) -> dict[str, Tensor]:
    hyper = case.hyper
    loss = ofa_loss(
        case["student_logits"],
        case["teacher_logits"],
        case["target"],
        epsilon=hyper["eps"],
        temperature=hyper["temperature"],
    )
    return {"loss": loss}


@answers("cat_kd")
def cat_kd(case: Case) -> dict[str, Tensor]:
    hyper = case.hyper
    loss = cat_kd_loss(
        case["student_cam"],
        case["teacher_cam"],
        resolution=hyper["cam_resolution"],
        normalise=hyper["if_normalize"],
    )
    return {"loss": loss}


@answers("mlld")
def mlld(case: Case) -> dict[str, Tensor]:
    hyper, target = case.hyper, case["target"]
    sides = TapShapes({}, num_classes=case["student_logits_weak"].shape[1])
    config = MLLD.Config(
        temperatures=hyper["temperatures"], label_weight=hyper["ce_weight"], kd_weight=hyper["kd_weight"]
    )
    terms = MLLD(config, Context(student=sides, teacher=sides, num_classes=sides.num_classes))(
        Pairing(
            student_logits=torch.cat([case["student_logits_weak"], case["student_logits_strong"]]),
            teacher_logits=torch.cat([case["teacher_logits_weak"], case["teacher_logits_strong"]]),
            labels=target.repeat(2),
            copies=torch.arange(2).repeat_interleave(len(target)),
        )
    )
    on_labels = hyper["ce_weight"] * F.cross_entropy(case["student_logits_weak"], target) + terms["strong_labels"]
    parts = {"loss_ce": on_labels, "loss_kd": terms["instance"], "loss_cc": terms["class"], "loss_bc": terms["batch"]}
    return {"loss": sum(parts.values(), torch.zeros_like(on_labels)), **parts}
