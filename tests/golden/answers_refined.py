"""Our answers to the golden methods that refine what the teacher says: TTM, RLD, SDD and Streamlined KD."""

from __future__ import annotations

import torch
from answers import answers
from cases import Case
from torch import Tensor

from understudy.methods.rld import rld_loss
from understudy.methods.sdd import sdd_loss
from understudy.methods.skd_streamlined import skd_direction_loss, skd_streamlined_loss
from understudy.methods.ttm import ttm_loss
from understudy.methods.wttm import wttm_loss


@answers("ttm")
def ttm(case: Case) -> dict[str, Tensor]:
    return {"loss": ttm_loss(case["student_logits"], case["teacher_logits"], gamma=case.hyper["gamma"])}


@answers("wttm")
def wttm(case: Case) -> dict[str, Tensor]:
    return {"loss": wttm_loss(case["student_logits"], case["teacher_logits"], gamma=case.hyper["gamma"])}


@answers("rld")
def rld(case: Case) -> dict[str, Tensor]:
    names = ("alpha", "beta", "temperature", "alpha_temperature")
    settings = {name: case.hyper[name] for name in names} | {"standardises": case.hyper["logit_stand"]}
    return {"loss": rld_loss(case["student_logits"], case["teacher_logits"], case["target"], **settings)}


@answers("skd_streamlined")
def skd_streamlined(case: Case) -> dict[str, Tensor]:
    sides = case["student_logits"], case["teacher_logits"]
    temperature = case.hyper["temperature"]
    tikhonov = torch.tensor(case.hyper["tikhonov"], dtype=torch.float32).item()  # as torchdistill rounds it

    def loss(instance: float, direction: float) -> Tensor:
        weights = {"instance_weight": instance, "direction_weight": direction}
        return skd_streamlined_loss(*sides, form="paper", temperature=temperature, tikhonov=tikhonov, **weights)

    return {"loss": loss(1, 1), "instance": loss(1, 0), "direction": skd_direction_loss(*sides, tikhonov=tikhonov)}


@answers("sdd_dkd")
def sdd_dkd(case: Case) -> dict[str, Tensor]:
    settings = {name: case.hyper[name] for name in ("alpha", "beta", "temperature")}
    return {"loss": sdd_loss(case["student_logits"], case["teacher_logits"], case["target"], **settings)}
