"""Our answers to the golden methods of unlike architectures, class attention and several levels: ofa, cat_kd, mlld."""

from __future__ import annotations

from answers import answers
from cases import Case
from torch import Tensor

from understudy.methods.cat_kd import cat_kd_loss
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
