"""Our answers to the golden methods: one function per method, from a case to the loss and the parts that are ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from cases import Case
from torch import Tensor
from torch.func import functional_call

from understudy.core.batch import Pairing
from understudy.core.taps import TapShape
from understudy.methods.base import Context, TapShapes
from understudy.methods.dist import dist_loss
from understudy.methods.dkd import dkd_loss
from understudy.methods.kd import kd_loss
from understudy.methods.projector import Projector, projector_loss
from understudy.methods.shared.connectors import pooled


@dataclass(frozen=True)
class Answer:
    """How a golden method is answered."""

    compute: Callable[[Case], dict[str, Tensor]]  # "loss" and the parts, without the prefix "out."
    not_ours: tuple[str, ...]  # starts of the stored parts that we do not have


ANSWERS: dict[str, Answer] = {}


def answers(
    *methods: str, not_ours: tuple[str, ...] = ()
) -> Callable[[Callable[[Case], dict[str, Tensor]]], Callable[[Case], dict[str, Tensor]]]:
    """Register a function as the answer to golden methods."""

    def register(compute: Callable[[Case], dict[str, Tensor]]) -> Callable[[Case], dict[str, Tensor]]:
        for method in methods:
            ANSWERS[method] = Answer(compute, not_ours)
        return compute

    return register


@answers("kd")
def kd(case: Case) -> dict[str, Tensor]:
    return {"loss": kd_loss(*_logits(case), temperature=case.hyper["temperature"])}


@answers("kd_dist_kd")
def kd_dist_kd(case: Case) -> dict[str, Tensor]:
    return {"loss": kd_loss(*_logits(case), temperature=case.hyper["tau"])}


@answers("kd_objective")
def kd_objective(case: Case) -> dict[str, Tensor]:
    task = case.hyper["ce_weight"] * _task(case)
    distill = case.hyper["kd_weight"] * kd_loss(*_logits(case), temperature=case.hyper["temperature"])
    return {"loss": task + distill, "loss_ce": task, "loss_kd": distill}


@answers("dkd")
def dkd(case: Case) -> dict[str, Tensor]:
    hyper, labels = case.hyper, case["target"]

    def loss(alpha: float, beta: float) -> Tensor:
        return dkd_loss(*_logits(case), labels, alpha=alpha, beta=beta, temperature=hyper["temperature"])

    return {"loss": loss(hyper["alpha"], hyper["beta"]), "tckd": loss(1, 0), "nckd": loss(0, 1)}


@answers("dkd_objective")
def dkd_objective(case: Case) -> dict[str, Tensor]:
    hyper = case.hyper
    task = hyper["ce_weight"] * _task(case)
    warmup = min(hyper["epoch"] / hyper["warmup"], 1.0)
    distill = warmup * dkd_loss(
        *_logits(case), case["target"], alpha=hyper["alpha"], beta=hyper["beta"], temperature=hyper["temperature"]
    )
    return {"loss": task + distill, "loss_ce": task, "loss_kd": distill}


@answers("dist", "dist_inter", "dist_intra")
def dist(case: Case) -> dict[str, Tensor]:
    hyper = case.hyper

    def loss(beta: float, gamma: float) -> Tensor:
        return dist_loss(*_logits(case), beta=beta, gamma=gamma, tau=hyper["tau"])

    return {"loss": loss(hyper["beta"], hyper["gamma"]), "inter": loss(1, 0), "intra": loss(0, 1)}


@answers("dist_seg")
def dist_seg(case: Case) -> dict[str, Tensor]:
    return {"loss": dist_loss(*_logits(case), beta=case.hyper["beta"], gamma=case.hyper["gamma"])}


@answers("simple_recipe", not_ours=("out.bn_",))  # we keep no running statistics
def simple_recipe(case: Case) -> dict[str, Tensor]:
    student, teacher = case["student_features.0"], case["teacher_features.0"]
    context = Context(student=_embedding(student), teacher=_embedding(teacher), num_classes=2)
    method = Projector(Projector.Config(bias="projector.embed.bias" in case.inputs), context)
    pairing = Pairing(
        *_logits(case), case["target"], student_features={"embedding": student}, teacher_features={"embedding": teacher}
    )
    weights = _parameters(case, "projector.embed.", "projector.")
    terms: Mapping[str, Tensor] = functional_call(method, weights, (pairing,))
    loss = sum(terms.values(), torch.zeros_like(terms["kl"]))
    return {"loss": loss, "logsum": terms["logsum"] / 2, "loss_with_ce": loss + _task(case)}


@answers("simple_recipe_deit", not_ours=("out.bn_",))
def simple_recipe_deit(case: Case) -> dict[str, Tensor]:
    projected = _projected(case, case["student_features.0"])
    # The reference's batch norm has eps 0, which the method's Config refuses. Its alpha of 2 is unused: 4 is fixed.
    return {"loss": projector_loss(projected, case["teacher_features.0"], distance="correlation", eps=0.0)}


@answers("simple_recipe_deit_l2")
def simple_recipe_deit_l2(case: Case) -> dict[str, Tensor]:
    projected = _projected(case, case["student_features.0"]).flatten(0, 1)  # every position is a row
    teacher = case["teacher_features.0"].movedim(1, -1).flatten(0, 2)
    return {"loss": projector_loss(projected, teacher, normalisation="l2", distance="mse")}


@answers("simple_recipe_torchdistill")
def simple_recipe_torchdistill(case: Case) -> dict[str, Tensor]:
    student, teacher = case["student_features.0"].flatten(1), case["teacher_features.0"].flatten(1)
    distance = projector_loss(student, teacher, normalisation="none", alpha=case.hyper["exponent"])
    temperature = case.hyper["temperature"]
    # torchdistill's KL carries no T^2.
    return {"loss": 2 * distance + kd_loss(*_logits(case), temperature=temperature) / temperature**2}


@answers("label_smoothing_ce")
def label_smoothing_ce(case: Case) -> dict[str, Tensor]:
    loss = F.cross_entropy(case["student_logits"], case["target"], label_smoothing=case.hyper["smoothing"])
    return {"loss": loss, "loss_sota": loss, "loss_torch": loss}  # the three implementations agree


@answers("soft_target_ce")
def soft_target_ce(case: Case) -> dict[str, Tensor]:
    return {"loss": _task(case)}


def _logits(case: Case) -> tuple[Tensor, Tensor]:
    return case["student_logits"], case["teacher_logits"]


def _task(case: Case) -> Tensor:
    return F.cross_entropy(case["student_logits"], case["target"])


def _parameters(case: Case, stored: str, ours: str) -> dict[str, Tensor]:
    return {ours + name.removeprefix(stored): case[name] for name in case.inputs if name.startswith(stored)}


def _projected(case: Case, features: Tensor) -> Tensor:
    weights = _parameters(case, "projector.embed.", "")
    return F.linear(pooled(features), weights["weight"].flatten(1), weights.get("bias"))


def _embedding(feature: Tensor) -> TapShapes:
    return TapShapes({"embedding": TapShape(*feature.shape[1:])}, num_classes=2, classifier=None)
