"""Token methods between networks of every kind, both ways: they train, resume and deploy, or are refused in words."""

from __future__ import annotations

import copy
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from helpers.states import differing, flat
from understudy import DOT, Batch, Classification, Joint, LiveTeacher, StudentSpec, UserError
from understudy.core.precision import Precision, autocast
from understudy.models import create_model
from understudy.recipes.schema import method_config
from understudy.training.build import BuildContext, build_student, tap_teacher
from understudy.training.student import Student

CLASSES = 5
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
BATCHES = [
    Batch(IMAGES, torch.arange(4)),
    Batch(IMAGES.flip(0), torch.rand(4, CLASSES, generator=torch.Generator().manual_seed(1)).softmax(dim=1)),
]
_VIT = {"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "deit": ("timm:deit_tiny_distilled_patch16_224", _VIT),
    "deit_conv": ("understudy:deit_conv_tiny", _VIT),
    "vit": ("timm:vit_tiny_patch16_224", {**_VIT, "embed_dim": 24, "patch_size": 4}),
    "swin": (
        "timm:swin_tiny_patch4_window7_224",
        {"patch_size": 2, "window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)},
    ),
    "convnext": ("timm:convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)}),
    "resnet": ("timm:resnet18", {"layers": (1, 1, 1, 1), "channels": (8, 12, 16, 24)}),
}
TOKENS = ("deit", "deit_conv")  # two heads
METHODS: dict[str, Any] = {
    "deit hard": {"name": "deit"},
    "deit soft": {"name": "deit", "kind": "soft"},
    "dist on a token": {"name": "dist", "on": "distilled"},
    "projector of patches": {"name": "projector", "student_tap": "stages.1", "teacher_tap": "stages.1"},
    "projector of places": {
        "name": "projector",
        "student_tap": "stages.1",
        "teacher_tap": "stages.1",
        "spatial": True,
        "distance": "correlation",
        "kl_weight": 0,
    },
    "projector of all tokens": {"name": "projector", "student_tap": "norm:tokens", "kl_weight": 0},
    "co_advise on one token": {"name": "co_advise", "on": "distilled"},
    "vkd": {"name": "vkd"},
    "minilm": {"name": "minilm"},
    "fitnet": {"name": "fitnet"},
    "at": {"name": "at"},
    "reviewkd": {"name": "reviewkd", "max_mid_channels": 8},
    "uskd": {"name": "uskd"},
    "simreg": {"name": "simreg"},
}
PAIRS = [(one, other) for one, other in product(NETWORKS, NETWORKS) if "deit" in (one, other)]


def is_refused(method: str, student: str, teacher: str) -> str | None:
    """What the refusal says, where a pair is refused."""
    if method in ("deit hard", "deit soft", "dist on a token", "co_advise on one token") and student not in TOKENS:
        return "teaches the head 'distilled' of a distillation token, and .* has one head"
    if method == "projector of all tokens" and student not in (*TOKENS, "vit"):
        return "has nothing to tap at 'norm:tokens'|which are no tokens"
    if method == "minilm" and {student, teacher} - {"deit", "deit_conv", "vit"}:
        return "has no layer that gives queries, keys and values of whole images"
    return None


CASES = [(method, *pair) for method, pair in product(METHODS, PAIRS)]
ACCEPTED = [case for case in CASES if is_refused(*case) is None]
REFUSED = [case for case in CASES if is_refused(*case) is not None]


FAST = {("deit", "resnet"), ("resnet", "deit"), ("deit", "vit")}  # the others take half a minute


def marked(case: tuple[str, str, str]) -> Any:
    return pytest.param(case, id=" ".join(case), marks=[] if case[1:] in FAST else [pytest.mark.slow])


@cache
def network_named(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model, kwargs = NETWORKS[name]
    return create_model(model, num_classes=CLASSES, weights="none", image_size=32, kwargs=kwargs).module


def built(
    method: str, student: str, teacher: str, update: Any, *, precision: Precision = "float32"
) -> tuple[Student, LiveTeacher]:
    config = method_config(METHODS[method])
    live = LiveTeacher(copy.deepcopy(network_named(teacher, 1)))
    around = BuildContext(task=Classification(CLASSES), num_classes=CLASSES, sample=IMAGES, teacher=live)
    tap_teacher(live, [config])
    spec = StudentSpec(copy.deepcopy(network_named(student, 0)), method=config, update=update, precision=precision)
    made = build_student(spec, around)
    made.train()
    return made, live


def update_of(place: int) -> Any:
    """Joint and DOT in turn, with AdamW's rule."""
    return (Joint.Config if place % 2 else DOT.Config)(optimizer="adamw", lr=1e-3)


@pytest.mark.parametrize("case", [marked(case) for case in ACCEPTED])
def test_a_student_learns_resumes_and_predicts(case: tuple[str, str, str]) -> None:
    place = ACCEPTED.index(case)
    student, teacher = built(*case, update_of(place))
    before = flat(student.state_dict())
    for batch in BATCHES:
        record = student.step(batch, teacher.observe(batch), epoch=1)
        assert record.mean("distill").isfinite()
        assert record.mean("task").isfinite()
    moved = differing(before, flat(student.state_dict()))
    assert any(name.startswith("/model/") for name in moved)
    weights = [f"/connectors/{name}" for name, p in student.connectors.named_parameters() if p.requires_grad]
    assert set(weights) <= set(moved)

    restored, _ = built(*case, update_of(place))
    restored.load_state_dict(copy.deepcopy(student.state_dict()))
    for each in (student, restored):
        each.step(BATCHES[0], teacher.observe(BATCHES[0]), epoch=1)
    assert differing(flat(student.state_dict()), flat(restored.state_dict())) == []

    student.train(False)
    with torch.no_grad():
        assert student.predict(BATCHES[0]).shape == (4, CLASSES)


@pytest.mark.parametrize("case", [marked(case) for case in REFUSED])
def test_a_pair_that_cannot_be_is_refused_in_words(case: tuple[str, str, str]) -> None:
    with pytest.raises(UserError, match=is_refused(*case)):
        built(*case, Joint.Config())


HALF = [case for case in ACCEPTED if case[1:] in {("deit", "resnet"), ("resnet", "deit"), ("deit", "vit")}]


@pytest.mark.parametrize("case", [pytest.param(case, id=" ".join(case)) for case in HALF])
def test_networks_in_half_precision_learn_with_finite_losses(case: tuple[str, str, str]) -> None:
    student, teacher = built(*case, update_of(HALF.index(case)), precision="bfloat16")
    before = flat(student.state_dict())
    with autocast("bfloat16", IMAGES.device):
        seen = teacher.observe(BATCHES[0])
    record = student.step(BATCHES[0], seen, epoch=1)
    assert record.mean("distill").isfinite()
    assert record.mean("task").isfinite()
    moved = [name for name in differing(before, flat(student.state_dict())) if name.startswith("/model/")]
    assert moved
    assert all(flat(student.state_dict())[name].isfinite().all() for name in moved)
