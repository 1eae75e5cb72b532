"""Our answers to the golden methods on logits, on tokens and on dense maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from answers import answers
from cases import Case
from torch import Tensor
from torch.func import functional_call

from understudy.core.batch import Pairing
from understudy.core.taps import TapShape
from understudy.methods.base import Context, TapShapes
from understudy.methods.losses.dense import (
    anchor_boxes,
    cwd_loss,
    fgfi_loss,
    fgfi_mask,
    skd_pairwise_loss,
    skd_pixelwise_loss,
)
from understudy.methods.losses.kd_variants import elementwise_kd_loss, takd_objective
from understudy.methods.losses.token import co_advise_objective, deit_hard_objective, deit_soft_objective
from understudy.methods.nkd import nkd_loss
from understudy.methods.spherical import Sphere, spherical_loss
from understudy.methods.uskd import USKD


@answers("nkd")
def nkd(case: Case) -> dict[str, Tensor]:
    hyper = case.hyper
    return {"loss": nkd_loss(*_logits(case), case["target"], gamma=hyper["gamma"], temperature=hyper["temp"])}


@answers("uskd")
def uskd(case: Case) -> dict[str, Tensor]:
    feature, logits = case["student_features.0"], case["student_logits"]
    student = TapShapes({"middle": TapShape(*feature.shape[1:])}, num_classes=logits.shape[1])
    none = TapShapes({}, num_classes=logits.shape[1])
    config = USKD.Config(alpha=case.hyper["alpha"], beta=case.hyper["beta"], mu=case.hyper["mu"], student_tap="middle")
    method = USKD(config, Context(student=student, teacher=none, num_classes=logits.shape[1]))
    weights = {f"weak_classifier.{name}": case[f"projector.fc.{name}"] for name in ("weight", "bias")}
    pairing = Pairing(logits, None, case["target"], student_features={"middle": feature})
    terms: dict[str, Tensor] = functional_call(method, weights, (pairing,))
    return {"loss": torch.stack(list(terms.values())).sum()}


@answers("spherical_kd")
def spherical_kd(case: Case) -> dict[str, Tensor]:
    return _spherical(case, "teacher_std")


@answers("spherical_kd_readme")
def spherical_kd_readme(case: Case) -> dict[str, Tensor]:
    return _spherical(case, "layer_norm")


def _spherical(case: Case, sphere: Sphere) -> dict[str, Tensor]:
    alpha = case.hyper["alpha"]

    def loss(kd_weight: float, ce_weight: float) -> Tensor:
        return spherical_loss(
            *_logits(case),
            case["target"],
            sphere=sphere,
            radius=case.hyper.get("multiplier", 1.0),
            temperature=case.hyper["T"],
            kd_weight=kd_weight,
            ce_weight=ce_weight,
        )

    return {"loss": loss(alpha, 1 - alpha), "loss_kd": loss(alpha, 0), "loss_softmax": loss(0, 1 - alpha)}


@answers("takd")
def takd(case: Case) -> dict[str, Tensor]:
    temperature = case.hyper["T"]
    distill = elementwise_kd_loss(*_logits(case), temperature=temperature)
    objective = takd_objective(
        *_logits(case), case["target"], temperature=temperature, distill_weight=case.hyper["lambda"]
    )
    return {"loss": objective, "loss_kd_unscaled": distill / temperature**2, "loss_ce": _task(case)}


@answers("deit_hard")
def deit_hard(case: Case) -> dict[str, Tensor]:
    loss = deit_hard_objective(*_tokens(case), alpha=case.hyper["alpha"])
    return {"loss": loss, "base_loss": _task(case)}


@answers("deit_soft")
def deit_soft(case: Case) -> dict[str, Tensor]:
    loss = deit_soft_objective(*_tokens(case), alpha=case.hyper["alpha"], temperature=case.hyper["tau"])
    return {"loss": loss, "base_loss": _task(case)}


@answers("co_advise")
def co_advise(case: Case) -> dict[str, Tensor]:
    labels, names = case["target"], ("conv", "inv")

    def loss(*names: str) -> Tensor:
        tokens = [case[f"student_logits_{name}"] for name in names]
        teachers = [case[f"teacher_logits.{name}"] for name in names]
        return co_advise_objective(case["student_logits"], tokens, teachers, labels, temperature=case.hyper["T"])

    task = loss()
    parts = {f"{name}_kd_loss": loss(name) - task for name in names}
    return {"loss": loss(*names), "ce_loss": task, **parts}


@answers("cwd")
def cwd(case: Case) -> dict[str, Tensor]:
    student, teacher = case["student_features.0"], case["teacher_features.0"]
    norm_type, share = case.hyper["norm_type"], 1.0
    if norm_type == "none":  # the released code reads the first image and divides by the number of all
        share, student, teacher = 1 / len(student), student[:1], teacher[:1]
    loss = cwd_loss(
        student,
        teacher,
        norm_type=norm_type,
        divergence=case.hyper["divergence"],
        temperature=case.hyper["temperature"],
    )
    return {"loss": share * loss}


@answers("skd_pixelwise")
def skd_pixelwise(case: Case) -> dict[str, Tensor]:
    return {"loss": skd_pixelwise_loss(*_logits(case))}


@answers("skd_pairwise")
def skd_pairwise(case: Case) -> dict[str, Tensor]:
    return {
        "loss": skd_pairwise_loss(case["student_features.0"], case["teacher_features.0"], scale=case.hyper["scale"])
    }


@answers("fgfi")
def fgfi(case: Case) -> dict[str, Tensor]:
    hyper, boxes = case.hyper, case["gt_boxes"]
    anchors = {"scales": hyper["scales"], "ratios": hyper["ratios"]}
    counts = fgfi_mask(boxes, height=hyper["height"], width=hyper["width"], stride=hyper["feat_stride"], **anchors)
    adapted = F.conv2d(case["student_features.0"], case["projector.0.weight"], case["projector.0.bias"], padding=1)
    loss = hyper["imitation_loss_weight"] * fgfi_loss(adapted.relu(), case["teacher_features.0"], counts)
    return {
        "loss": loss,
        "mask": (counts > 0)[:, None],
        "mask_count": counts,
        "anchors": anchor_boxes(**anchors, like=boxes),
    }


def _logits(case: Case) -> tuple[Tensor, Tensor]:
    return case["student_logits"], case["teacher_logits"]


def _tokens(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return case["student_logits"], case["student_logits_dist"], case["teacher_logits"], case["target"]


def _task(case: Case) -> Tensor:
    return F.cross_entropy(case["student_logits"], case["target"])
