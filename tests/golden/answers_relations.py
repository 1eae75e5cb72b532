"""Our answers to the golden methods on relations and contrast."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from answers import answers
from cases import Case
from torch import Tensor
from torch.func import functional_call

from understudy.core.batch import Pairing
from understudy.core.taps import TapShape
from understudy.methods.base import Context, TapShapes
from understudy.methods.cc import CC, cc_kernel_loss
from understudy.methods.crd import CRD
from understudy.methods.hsakd import hsakd_loss
from understudy.methods.itrd import ITRD
from understudy.methods.kd import kd_loss
from understudy.methods.pkt import pkt_loss
from understudy.methods.rkd import rkd_angle_loss, rkd_distance_loss, rkd_loss
from understudy.methods.sp import sp_loss
from understudy.methods.sskd import kept_kd_loss, kept_rows, similarities, similarity_labels, sskd_loss


@answers("rkd")
def rkd(case: Case) -> dict[str, Tensor]:
    hyper, (student, teacher) = case.hyper, _features(case)
    weights = {name: hyper[name] for name in ("distance_weight", "angle_weight")}
    # The official code lets angles of coinciding rows push; our default does not.
    loss = rkd_loss(
        student, teacher, **weights, squared=hyper["squared"], eps=hyper["eps"], pushes_coinciding_rows=True
    )
    distance = rkd_distance_loss(student, teacher, squared=hyper["squared"], eps=hyper["eps"])
    return {"loss": loss, "loss_distance": distance, "loss_angle": rkd_angle_loss(student, teacher, nearest=0.0)}


@answers("sp")
def sp(case: Case) -> dict[str, Tensor]:
    stages = [name.removeprefix("student_features.") for name in case.inputs if name.startswith("student_features.")]
    losses = [sp_loss(case[f"student_features.{i}"], case[f"teacher_features.{i}"]) for i in stages]
    return {"loss": torch.stack(losses).sum()}


@answers("pkt")
def pkt(case: Case) -> dict[str, Tensor]:
    return {"loss": pkt_loss(*_features(case), eps=case.hyper["eps"])}


@answers("cc")
def cc(case: Case) -> dict[str, Tensor]:
    student, teacher = _features(case)
    method = CC(CC.Config(embedding_dim=case.hyper["feat_dim"]), _context(student, teacher))
    weights = _renamed(
        case,
        {"projector.student.linear.": "student_embedding.", "projector.teacher.linear.": "teacher_embedding."},
    )
    terms = functional_call(method, weights, (_pairing(student, teacher),))
    return {"loss": terms["cc"]}


@answers("cc_torchdistill")
def cc_torchdistill(case: Case) -> dict[str, Tensor]:
    hyper = case.hyper
    is_mean = hyper["reduction"] == "batchmean"
    if hyper["kernel"] == "bilinear":  # which has no series
        return {"loss": cc_kernel_loss(*_features(case), kernel="bilinear", is_mean=is_mean)}
    gaussian = {"gamma": hyper["gamma"], "order": hyper["max_p"]}
    return {"loss": cc_kernel_loss(*_features(case), **gaussian, is_mean=is_mean)}


@answers("itrd")
def itrd(case: Case) -> dict[str, Tensor]:
    hyper, (student, teacher) = case.hyper, _features(case)
    config = ITRD.Config(
        alpha=hyper["alpha_it"], correlation_weight=hyper["lambda_corr"], mutual_weight=hyper["lambda_mutual"]
    )
    method = ITRD(config, _context(student, teacher))
    weights = _renamed(case, {"projector.embed.linear.": "projector."})
    terms = functional_call(method, weights, (_pairing(student, teacher),))
    loss = terms["correlation"] + terms["mutual"]
    return {"loss": loss, "loss_correlation": terms["correlation"], "loss_mutual": terms["mutual"]}


@answers("crd")
def crd(case: Case) -> dict[str, Tensor]:
    """Some consecutive steps of one method; the loss is their sum."""
    hyper = case.hyper
    student, teacher = _features(case)
    method = _crd_method(case, student, teacher)
    weights = _renamed(
        case,
        {"projector.embed_s.linear.": "student_embedding.", "projector.embed_t.linear.": "teacher_embedding."},
    )
    parts: dict[str, Tensor] = {}
    drawn = torch.Generator().manual_seed(hyper["draw_seed"])
    losses, contrasts = [], []
    for step in range(hyper["steps"]):
        index = case[f"index.{step}"]
        contrast = case.inputs.get(f"contrast_index.{step}")
        if contrast is None:
            contrast = _drawn_as_the_reference_does(index, hyper["K"], len(case["memory_v1"]), drawn)
        pairing = _pairing(case[f"student_features.{step}"], case[f"teacher_features.{step}"], index)
        terms = functional_call(method, weights, (pairing, contrast))
        losses.append(terms["student"] + terms["teacher"])
        contrasts.append(contrast)
        parts[f"loss.step{step}"] = losses[-1]
        for side, name in enumerate(("v1", "v2")):
            parts[f"Z_{name}.step{step}"] = method.log_normaliser[side].exp()
            parts[f"memory_{name}.step{step}"] = method.memory[side].clone()
    return {"loss": torch.stack(losses).sum(), **parts, **_indices(case, contrasts)}


def _indices(case: Case, contrasts: list[Tensor]) -> dict[str, Tensor]:
    """What was drawn, under the names and in the shapes that are stored: step by step, or of all steps at once."""
    drawn = torch.stack(contrasts)  # (steps, B, K + 1)
    found = {}
    for name, stored in case.expected.items():
        if "contrast_index" in name:
            step = re.search(r"(\d+)$", name)
            one = drawn[int(step[1])] if step else drawn if stored.numel() == drawn.numel() else drawn[0]
            found[name.removeprefix("out.")] = one.reshape(stored.shape)
    return found


def _crd_method(case: Case, student: Tensor, teacher: Tensor) -> CRD:
    """The method with the memories (and constants, where they are preset) of the case."""
    hyper, memories = case.hyper, torch.stack([case["memory_v1"], case["memory_v2"]])
    config = CRD.Config(
        embedding_dim=memories.shape[2],
        num_negatives=hyper["K"],
        # The reference keeps both in a float32 buffer.
        temperature=torch.tensor(hyper["temperature"], dtype=torch.float32).item(),
        momentum=torch.tensor(hyper["momentum"], dtype=torch.float32).item(),
        negatives="other_samples",
    )
    method = CRD(config, _context(student, teacher, num_train=memories.shape[1])).to(student.dtype)
    method.memory.copy_(memories)
    for side, preset in enumerate((hyper["z_v1"], hyper["z_v2"])):
        if preset is not None:
            method.log_normaliser[side] = torch.tensor(preset, dtype=torch.float64).log()
    return method


def _drawn_as_the_reference_does(index: Tensor, num_negatives: int, num_samples: int, drawn: torch.Generator) -> Tensor:
    """Its alias sampler under uniform weights: places with replacement, the first one replaced by the positive."""
    count = len(index) * (num_negatives + 1)
    places = torch.zeros(count, dtype=torch.long).random_(0, num_samples, generator=drawn)
    torch.bernoulli(torch.ones(count), generator=drawn)  # it draws, and never takes, the alternative
    contrast = places.view(len(index), -1)
    contrast[:, 0] = index
    return contrast


@answers("sskd")
def sskd(case: Case) -> dict[str, Tensor]:
    hyper, labels = case.hyper, case["target"]
    sides = {
        name: by_copy(case[name], len(labels))
        for name in ("student_logits", "teacher_logits", "student_features.0", "teacher_features.0")
    }
    student, teacher = sides["student_logits"], sides["teacher_logits"]
    seen = similarities(sides["teacher_features.0"])
    num_rotations = len(student) - 1
    turned_teacher, turned_labels = teacher[1:].flatten(0, 1), labels.repeat(num_rotations)
    said, targets = similarities(sides["student_features.0"]), similarity_labels(seen)
    distill = sskd_loss(
        *sides.values(),
        labels,
        kd_weight=hyper["kd_weight"],
        transformed_weight=hyper["tf_weight"],
        similarity_weight=hyper["ss_weight"],
        temperature=hyper["kd_T"],
        transformed_temperature=hyper["tf_T"],
        similarity_temperature=hyper["ss_T"],
        transformed_ratio=hyper["ratio_tf"],
        similarity_ratio=hyper["ratio_ss"],
    )
    task = F.cross_entropy(student[0], labels)
    kept = {
        "tf": kept_rows(turned_teacher, turned_labels, hyper["ratio_tf"]),
        "ss": kept_rows(seen, targets, hyper["ratio_ss"]),
    }
    places = {
        # The reference counts rotated rows image by image, we count them copy by copy.
        f"distill_index_{name}": keep.view(num_rotations, -1).T.flatten().nonzero().squeeze(1)
        for name, keep in kept.items()
    }
    return {
        "loss": hyper["ce_weight"] * task + distill,
        "loss_ce": task,
        "loss_kd": kd_loss(student[0], teacher[0], temperature=hyper["kd_T"]),
        "loss_tf": kept_kd_loss(
            student[1:].flatten(0, 1),
            turned_teacher,
            turned_labels,
            temperature=hyper["tf_T"],
            ratio=hyper["ratio_tf"],
        ),
        "loss_ss": kept_kd_loss(said, seen, targets, temperature=hyper["ss_T"], ratio=hyper["ratio_ss"]),
        **places,
    }


def by_copy(rows: Tensor, num_images: int) -> Tensor:
    """(B * R, ...) rows, image by image, as (R, B, ...)."""
    return rows.unflatten(0, (num_images, -1)).transpose(0, 1)


@answers("hsakd")
def hsakd(case: Case) -> dict[str, Tensor]:
    branches = range(case.hyper["branches"])
    labels, student = case["target"], case["student_logits"]
    distill = hsakd_loss(
        student,
        case["teacher_logits"],
        [case[f"student_ss_logits.{i}"] for i in branches],
        [case[f"teacher_ss_logits.{i}"] for i in branches],
        temperature=case.hyper["kd_T"],
    )
    task = F.cross_entropy(by_copy(student, len(labels))[0], labels)
    return {"loss": task + distill, "loss_cls": task, "loss_div": distill}


def _features(case: Case) -> tuple[Tensor, Tensor]:
    return case["student_features.0"], case["teacher_features.0"]


def _context(student: Tensor, teacher: Tensor, num_train: int = 0) -> Context:
    def side(feature: Tensor) -> TapShapes:
        return TapShapes({"embedding": TapShape(*feature.shape[1:])}, num_classes=2)

    return Context(student=side(student), teacher=side(teacher), num_classes=2, num_train=num_train)


def _pairing(student: Tensor, teacher: Tensor, indices: Tensor | None = None) -> Pairing:
    """A pairing of which only the embeddings and the indices matter."""
    logits = student.new_zeros(len(student), 2)
    return Pairing(
        logits,
        logits,
        torch.zeros(len(student), dtype=torch.long),
        student_features={"embedding": student},
        teacher_features={"embedding": teacher},
        indices=indices,
    )


def _renamed(case: Case, names: dict[str, str]) -> dict[str, Tensor]:
    """The case's tensors under our names for their layers."""
    return {
        ours + name.removeprefix(stored): case[name]
        for stored, ours in names.items()
        for name in case.inputs
        if name.startswith(stored)
    }
