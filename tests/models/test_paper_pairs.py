"""The teachers and students of the papers' ImageNet tables: each pair takes a step, jointly and under DOT."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from understudy import DOT, Classification, Joint, LiveTeacher, MethodConfig, StudentSpec, create_model, trainer
from understudy.methods.dist import DIST
from understudy.methods.kd import KD
from understudy.methods.projector import Projector
from understudy.models import Network

SIDE = 64  # pixels; the papers' networks see 224
NUM_CLASSES = 7
KD_OF_DOT = KD.Config(temperature=1.0)  # mdistiller configs/imagenet: T 1


@dataclass(frozen=True)
class Pair:
    """A teacher, a student, and what their paper distilled."""

    teacher: str
    student: str
    method: MethodConfig
    student_kwargs: dict[str, Any] = field(default_factory=dict)
    is_slow: bool = True  # all but one of each method; most of the time goes into first weights

    @property
    def name(self) -> str:
        """As pytest shows it."""
        return f"{self.teacher}-{self.student}-{self.method.method.name}".replace("timm:", "")


PAIRS = [
    Pair("timm:resnet34", "timm:resnet18", KD_OF_DOT),
    Pair("timm:resnet34", "timm:resnet18", DIST.Config(), is_slow=False),
    Pair("timm:resnet34", "timm:resnet18", Projector.Config(), is_slow=False),
    Pair("timm:resnet50", "timm:mobilenetv1_100", KD_OF_DOT, {"act_layer": "relu"}, is_slow=False),
    Pair("timm:resnet50", "timm:mobilenetv1_100", DIST.Config(), {"act_layer": "relu"}),
    Pair("timm:resnet50", "timm:efficientnet_b0", DIST.Config()),
    Pair("timm:resnet101", "timm:resnet18", DIST.Config()),
    Pair("timm:resnet152", "timm:resnet34", DIST.Config()),
    Pair("timm:swin_large_patch4_window7_224", "timm:swin_tiny_patch4_window7_224", DIST.Config()),
    Pair("timm:regnety_160", "timm:deit_tiny_patch16_224", Projector.Config()),
    Pair("timm:vit_base_patch16_224", "timm:mobilenetv3_large_100", Projector.Config()),
    Pair("timm:convnext_base", "timm:efficientnet_b0", Projector.Config()),
]


def network(name: str, kwargs: dict[str, Any] | None = None) -> Network:
    return create_model(name, num_classes=NUM_CLASSES, weights="none", image_size=SIDE, kwargs=kwargs)


def weights_of(made: Network) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in made.module.named_parameters() if weight.ndim > 1}


@pytest.mark.parametrize(
    "pair", [pytest.param(pair, id=pair.name, marks=[pytest.mark.slow] * pair.is_slow) for pair in PAIRS]
)
def test_a_pair_of_the_papers_takes_a_step_jointly_and_under_dot(pair: Pair) -> None:
    teacher = network(pair.teacher)
    students = {"joint": network(pair.student, pair.student_kwargs), "dot": network(pair.student, pair.student_kwargs)}
    updates = {"joint": Joint.Config(lr=0.01), "dot": DOT.Config(lr=0.01, delta=0.09)}
    before = {name: weights_of(student) for name, student in students.items()}
    teacher_before = weights_of(teacher)
    draws = torch.Generator().manual_seed(0)
    batch = (torch.rand(4, 3, SIDE, SIDE, generator=draws), torch.tensor([0, 1, 2, 6]))
    loop = trainer(
        task=Classification(NUM_CLASSES),
        students=[
            StudentSpec(student.module, method=pair.method, update=updates[name], name=name, prepare=student.prepare)
            for name, student in students.items()
        ],
        sample=batch,
        teacher=LiveTeacher(teacher.module, prepare=teacher.prepare),
    )
    loop.fit([batch], epochs=1)  # raises NotFinite where a loss or a term is NaN or infinite
    for name, student in students.items():
        losses = loop.history[name][0]["train"]
        assert {"task_loss", "kl_to_teacher"} <= set(losses)
        assert all(math.isfinite(value) for value in losses.values()), losses
        moved = [key for key, weight in weights_of(student).items() if not torch.equal(weight, before[name][key])]
        first, *_, last = before[name]
        assert {first, last} <= set(moved), f"{len(moved)} of {len(before[name])} weights moved"
        assert all(weight.isfinite().all() for weight in student.module.state_dict().values())
    assert all(torch.equal(weight, teacher_before[key]) for key, weight in weights_of(teacher).items())
