"""Our answers to the golden methods of segmentation, detection and token students, and to their schedules."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from answers import answers
from cases import Case
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.func import functional_call

from understudy.analysis.equivariance import equivariance as mu_t
from understudy.core.boxes import Boxes, imitation_masks
from understudy.core.detection import Detections
from understudy.methods.dist import dist_loss
from understudy.methods.dkd import dkd_loss
from understudy.methods.kd import kd_loss
from understudy.methods.losses.dense import cwd_loss, skd_pairwise_loss
from understudy.methods.losses.imitation import fgfi_pyramid_loss
from understudy.methods.losses.kd_variants import elementwise_kd_loss
from understudy.methods.losses.segmentation import (
    cirkd_minibatch_loss,
    class_similarity_loss,
    dsd_loss,
    ifvd_loss,
    residual_attention_loss,
)
from understudy.methods.losses.token import deit_hard_objective, deit_soft_objective
from understudy.methods.projector import projector_loss
from understudy.methods.reviewkd import AttentionFusion, reviewkd_loss
from understudy.methods.shared.logits import as_rows
from understudy.optim.schedule import Schedule, lr_factor
from understudy.tasks.box_ap import box_scores
from understudy.tasks.box_matches import matched
from understudy.tasks.iou import class_counts, mean_iou, pixel_accuracy


@answers("seg_kd_pixel")
def seg_kd_pixel(case: Case) -> dict[str, Tensor]:
    student, teacher = (as_rows(logits) for logits in _logits(case))
    return {"loss": kd_loss(student, teacher, temperature=case.hyper["temperature"])}


@answers("seg_kd_elementwise")
def seg_kd_elementwise(case: Case) -> dict[str, Tensor]:
    student, teacher = _logits(case)
    if case.hyper.get("upsample"):
        student, teacher = (
            _upsampled(logits, [8 * side for side in logits.shape[2:]]) for logits in (student, teacher)
        )
    temperature = case.hyper["temperature"]
    # The reference carries no T^2.
    return {"loss": elementwise_kd_loss(student, teacher, temperature=temperature) / temperature**2}


@answers("dist_seg_objective")
def dist_seg_objective(case: Case) -> dict[str, Tensor]:
    hyper, labels = case.hyper, case["target"]
    heads = [("", 1.0)] + ([("_aux", hyper["aux_weight"])] if hyper["has_aux"] else [])
    task, distill = [], []
    for head, weight in heads:
        student, teacher = case[f"student_logits{head}"], case[f"teacher_logits{head}"]
        upsampled = _upsampled(student, labels.shape[1:])
        task.append(weight * F.cross_entropy(upsampled, labels, ignore_index=hyper["ignore_label"]))
        distill.append(weight * dist_loss(student, teacher, beta=hyper["beta"], gamma=hyper["gamma"]))
    losses = torch.stack(task).sum(), hyper["lambda_kd"] * torch.stack(distill).sum()
    return {"loss": losses[0] + losses[1], "task_loss": losses[0], "kd_loss": losses[1]}


@answers("cwd_cirkd")
def cwd_cirkd(case: Case) -> dict[str, Tensor]:
    student, teacher, hyper = case["student_features.0"], case["teacher_features.0"], case.hyper
    adapted = student
    if "projector.conv.weight" in case.inputs:
        adapted = F.conv2d(student, case["projector.conv.weight"], case.inputs.get("projector.conv.bias"))
    settings = {"divergence": hyper["divergence"], "temperature": hyper["temperature"]}
    loss = cwd_loss(adapted, teacher, norm_type=hyper["norm_type"], **settings)
    # The reference divides by the channels that the student had before it was adapted.
    return {"loss": loss * (teacher.shape[1] / student.shape[1] if hyper["norm_type"] == "channel" else 1)}


@answers("rcnn_dkd")
def rcnn_dkd(case: Case) -> dict[str, Tensor]:
    settings = {name: case.hyper[name] for name in ("alpha", "beta", "temperature")}
    return {"loss": dkd_loss(*_logits(case), case["target"], **settings)}


@answers("reviewkd_detection")
def reviewkd_detection(case: Case) -> dict[str, Tensor]:
    """The chain of ABF from the coarsest level, abfs.0, to the finest, each at the size of its level."""
    students, teachers = _levels(case)
    levels = range(len(students))
    reviewed: dict[int, Tensor] = {}
    residual: Tensor | None = None
    for number, level in enumerate(reversed(levels)):
        stored = f"projector.abfs.{number}."
        state = {name.removeprefix(stored): case[name] for name in case.inputs if name.startswith(stored)}
        state = {name: tensor if tensor.requires_grad else tensor.clone() for name, tensor in state.items()}
        student, teacher = students[level], teachers[level]
        mid, out = len(state["conv1.0.weight"]), len(state["conv2.0.weight"])
        fusion = AttentionFusion(student.shape[1], mid, out, fuses=number > 0).to(student.dtype)
        reviewed[level], residual = functional_call(fusion, state, (student, residual, tuple(teacher.shape[2:])))
    found = [reviewed[level] for level in levels]
    loss = case.hyper["weight"] * reviewkd_loss(found, teachers)
    return {"loss": loss, **{f"projected.{level}": maps for level, maps in reviewed.items()}}


@answers("deit_two_heads")
def deit_two_heads(case: Case) -> dict[str, Tensor]:
    hyper = case.hyper
    network, images = _two_headed(case), case["images"]
    state = {name.removeprefix("student."): case[name] for name in case.inputs if name.startswith("student.")}
    network.set_distilled_training(True)
    class_logits, token_logits = functional_call(network.train(), state, (images,))
    objective: Any = deit_hard_objective
    settings = {"alpha": hyper["alpha"]}
    if hyper["distillation_type"] == "soft":
        objective, settings["temperature"] = deit_soft_objective, hyper["tau"]
    if hyper["distillation_type"] == "none":
        settings["alpha"] = 0.0
    return {
        "loss": objective(class_logits, token_logits, case["teacher_logits"], case["target"], **settings),
        "logits": class_logits,
        "logits_dist": token_logits,
        "eval_logits": functional_call(network.eval(), state, (images,)),
    }


def _two_headed(case: Case) -> VisionTransformerDistilled:
    hyper, images = case.hyper, case["images"]
    return VisionTransformerDistilled(
        img_size=images.shape[-1],
        patch_size=hyper["patch_size"],
        in_chans=images.shape[1],
        num_classes=len(case["student.head.weight"]),
        embed_dim=hyper["embed_dim"],
        depth=hyper["depth"],
        num_heads=hyper["num_heads"],
        mlp_ratio=hyper["mlp_ratio"],
        norm_layer=partial(nn.LayerNorm, eps=hyper["layer_norm_eps"]),
    ).to(images.dtype)


@answers("simple_recipe_deit_objective")
def simple_recipe_deit_objective(case: Case) -> dict[str, Tensor]:
    weight, bias = case["projector.embed.weight"].flatten(1), case.inputs.get("projector.embed.bias")
    projected = F.linear(case["student_tokens"].mean(dim=1), weight, bias)
    teacher = case["teacher_features.0"].mean(dim=(2, 3))
    distance = projector_loss(
        projected, teacher, distance="correlation", alpha=case.hyper["exponent"], eps=case.hyper["bn_eps"]
    )
    temperature = case.hyper["T"]
    task = F.cross_entropy(case["student_logits"], case["target"])
    divergence = kd_loss(case["student_logits_dist"], case["teacher_logits"], temperature=temperature)
    weights = case.hyper["weights"]
    total = weights[0] * task + weights[1] * distance + weights[2] * divergence
    return {"loss": total, "ce": task, "repr": distance, "kl": divergence}


@answers("ttm")
def ttm(case: Case) -> dict[str, Tensor]:
    """KD at T = 1 from the teacher's logits times gamma."""
    return {"loss": kd_loss(case["student_logits"], case.hyper["gamma"] * case["teacher_logits"], temperature=1)}


@answers("lr_poly")
def lr_poly(case: Case) -> dict[str, Tensor]:
    hyper = case.hyper
    schedule = Schedule(name="poly", power=hyper["power"], min_lr=hyper["floor"])
    return _rates(case, schedule, hyper["steps"])


@answers("lr_warmup_multistep")
def lr_warmup_multistep(case: Case) -> dict[str, Tensor]:
    hyper = case.hyper
    settings: dict[str, Any] = {"milestones": tuple(hyper["milestones"]), "gamma": hyper["gamma"]}
    if hyper["warmup_steps"]:
        settings |= {"warmup_epochs": hyper["warmup_steps"], "warmup_lr": hyper["warmup_factor"] * hyper["lr"]}
    return _rates(case, Schedule(name="step", **settings), hyper["steps"])


@answers("lr_cosine_deit")
def lr_cosine_deit(case: Case) -> dict[str, Tensor]:
    """The reference sets the rate after a step, by that step's number: one step late."""
    hyper = case.hyper
    per_epoch = hyper["steps_per_epoch"]
    settings: dict[str, Any] = {"min_lr": hyper["min_lr"]}
    if hyper["warmup_epochs"]:
        warmup = hyper["warmup_epochs"] * per_epoch
        settings |= {"warmup_epochs": warmup, "warmup_lr": hyper["warmup_lr"], "warmup_within": True}
    return _rates(case, Schedule(name="cosine", **settings), hyper["epochs"] * per_epoch, late_by=1)


def _rates(case: Case, schedule: Schedule, num_steps: int, *, late_by: int = 0) -> dict[str, Tensor]:
    """The rate of every stored step; a step stands for an epoch."""
    lr = case.hyper["lr"]
    steps = [max(int(step) - late_by, 0) for step in case["iteration"]]
    rates = [lr * lr_factor(schedule, step, num_steps, lr=lr) for step in steps]
    return {"lr": torch.tensor(rates, dtype=torch.float64)}


def _logits(case: Case) -> tuple[Tensor, Tensor]:
    return case["student_logits"], case["teacher_logits"]


def _upsampled(logits: Tensor, size: Any) -> Tensor:
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)


@answers("equivariance")
def equivariance(case: Case) -> dict[str, Tensor]:
    hyper, tokens = case.hyper, case["tokens"]
    width, settings = tokens.shape[2], {"num_heads": hyper["num_heads"], "mlp_ratio": hyper["mlp_ratio"]}
    block = Block(width, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=hyper["layer_norm_eps"]), **settings)
    state = {name.removeprefix("block."): value for name, value in case.inputs.items() if name.startswith("block.")}
    block = block.to(tokens.dtype).eval()
    block.load_state_dict(state)
    found = {"block_output": block(tokens)}
    for suffix, only_valid in (("", False), ("_valid", True)):
        measured = mu_t(
            block,
            tokens,
            shifts=[tuple(shift) for shift in hyper["shifts"]],
            num_prefix=hyper["prefix"],
            keeps_prefix=hyper["keeps_prefix"],
            filling=hyper["translation"],
            only_valid=only_valid,
        )
        for name in ("sum", "mean", "relative"):
            found[f"{name}{suffix}"] = torch.tensor(getattr(measured, name), dtype=tokens.dtype)
    return found


@answers("cirkd_minibatch")
def cirkd_minibatch(case: Case) -> dict[str, Tensor]:
    return {"loss": cirkd_minibatch_loss(*_features(case), temperature=case.hyper["temperature"])}


@answers("dsd")
def dsd(case: Case) -> dict[str, Tensor]:
    hyper = case.hyper
    student, teacher = _levels(case)
    settings = {"exponent": hyper["p"], "tau": hyper["tau"]}
    weights = {"residual_weight": hyper["lambda_psd"], "class_weight": hyper["lambda_csd"]}
    return {
        "loss": dsd_loss(student, teacher, **weights, **settings),
        "psd": residual_attention_loss(student, teacher, exponent=hyper["p"]),
        "csd": class_similarity_loss(student[-1], teacher[-1], tau=hyper["tau"]),
    }


@answers("ifvd")
def ifvd(case: Case) -> dict[str, Tensor]:
    return {"loss": ifvd_loss(*_features(case), case["target"], num_classes=case.hyper["classes"])}


@answers("skd_pairwise_cirkd")
def skd_pairwise_cirkd(case: Case) -> dict[str, Tensor]:
    return {"loss": skd_pairwise_loss(*_features(case), form="cirkd")}


@answers("dist_det")
def dist_det(case: Case) -> dict[str, Tensor]:
    hyper = case.hyper
    activation: Any = "sigmoid" if hyper["use_sigmoid"] else "softmax"
    loss = dist_loss(*_logits(case), beta=hyper["beta"], gamma=hyper["gamma"], activation=activation)
    return {"loss": hyper["loss_weight"] * loss}


@answers("fgfi_fpn")
def fgfi_fpn(case: Case) -> dict[str, Tensor]:
    student, teacher = _levels(case)
    image = torch.arange(len(case["num_boxes"])).repeat_interleave(case["num_boxes"])
    boxes = _boxes(case["gt_boxes"], torch.zeros_like(image), image, len(case["num_boxes"]))
    anchors, sizes = [case[f"anchors.{level}"] for level in range(len(student))], [maps.shape[2:] for maps in student]
    masks = imitation_masks(boxes, anchors, [(size[0], size[1]) for size in sizes], threshold=case.hyper["thresh"])
    return {
        "loss": fgfi_pyramid_loss(student, teacher, masks),
        "sum_of_levels": fgfi_pyramid_loss(student, teacher, masks, norm="level"),
        **{f"mask.{level}": mask[:, None] for level, mask in enumerate(masks)},
    }


@answers("seg_miou")
def seg_miou(case: Case) -> dict[str, Tensor]:
    num_classes, logits = case.hyper["classes"], case["logits"]
    counts = class_counts(logits.argmax(dim=1), case["target"], num_classes)
    # The reference's accuracy is that of truncated logits.
    truncated = class_counts(logits.long().argmax(dim=1), case["target"], num_classes)
    intersection, predicted, labelled = counts.sum(dim=0).unbind(dim=1)
    return {
        "pixel_accuracy": pixel_accuracy(truncated),
        "mean_iou": mean_iou(counts, absent="zero"),
        "intersection": intersection,
        "union": predicted + labelled - intersection,
    }


@answers("coco_map")
def coco_map(case: Case) -> dict[str, Tensor]:
    num_images, num_classes = case.hyper["num_images"], len(case.expected["out.AP_per_class"])
    crowd = {"crowd": case["gt_iscrowd"].bool(), "area": case["gt_area"]}
    order = case["gt_image"].argsort(stable=True)
    there = _boxes(case["gt_boxes"], case["gt_labels"], case["gt_image"], num_images, **crowd)
    there = there.where(order)
    found = [
        Detections(case["boxes"][is_here], case["scores"][is_here], case["labels"][is_here])
        for is_here in (case["image"] == number for number in range(num_images))
    ]
    scores = box_scores(matched(found, there, num_classes))
    single = {name: torch.tensor(value, dtype=torch.float64) for name, value in scores.scores.items()}
    return {**single, "AP_per_class": torch.from_numpy(scores.by_class)}


def _boxes(boxes: Tensor, labels: Tensor, image: Tensor, num_images: int, **more: Tensor) -> Boxes:
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    given = {"crowd": torch.zeros_like(labels, dtype=torch.bool), "area": areas} | more
    sizes, scale = torch.full((num_images, 2), 10_000), torch.ones(num_images, 2)
    return Boxes(boxes=boxes, labels=labels, image=image, sizes=sizes, scale=scale, **given)


def _features(case: Case) -> tuple[Tensor, Tensor]:
    return case["student_features.0"], case["teacher_features.0"]


def _levels(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    count = sum(name.startswith("student_features.") for name in case.inputs)
    students, teachers = (
        [case[f"{side}_features.{level}"] for level in range(count)] for side in ("student", "teacher")
    )
    return students, teachers
