"""Our answers to the golden methods that refine what the teacher says: TTM, RLD, SDD and Streamlined KD."""

from __future__ import annotations

from answers import answers
from cases import Case
from torch import Tensor

from understudy.methods.ttm import ttm_loss
from understudy.methods.wttm import wttm_loss


@answers("ttm")
def ttm(case: Case) -> dict[str, Tensor]:
    return {"loss": ttm_loss(case["student_logits"], case["teacher_logits"], gamma=case.hyper["gamma"])}


@answers("wttm")
def wttm(case: Case) -> dict[str, Tensor]:
    return {"loss": wttm_loss(case["student_logits"], case["teacher_logits"], gamma=case.hyper["gamma"])}
