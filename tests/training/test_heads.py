"""Students that predict more than once: each head has a target of its own, and their mean is deployed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from helpers.engine import CPU
from helpers.states import differing, flat
from understudy import DOT, Batch, Classification, LiveTeacher, StudentSpec, UserError, methods
from understudy.methods.base import MethodConfig
from understudy.methods.losses.token import deit_hard_objective, deit_soft_objective
from understudy.models import create_model
from understudy.training.build import BuildContext, build_student, tap_teacher
from understudy.training.student import Student

torch.set_num_threads(1)

CLASSES = 5
IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCH = Batch(IMAGES, torch.arange(6) % CLASSES)
MIXED = Batch(IMAGES, torch.rand(6, CLASSES, generator=torch.Generator().manual_seed(1)).softmax(dim=1))
SMALL = {"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2}


def network(name: str = "timm:deit_tiny_distilled_patch16_224", **kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=CLASSES, weights="none", image_size=8, kwargs={**SMALL, **kwargs}).module


def teacher_network(num_classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )


def student_of(
    *configs: MethodConfig, model: nn.Module | None = None, teacher: LiveTeacher | None = None, **settings: Any
) -> tuple[Student, LiveTeacher]:
    teacher = teacher or LiveTeacher(teacher_network())
    tap_teacher(teacher, configs)
    around = BuildContext(task=Classification(CLASSES), num_classes=CLASSES, sample=IMAGES, teacher=teacher)
    return build_student(StudentSpec(model or network(), method=configs, **settings), around), teacher


@pytest.mark.parametrize("batch", [BATCH, MIXED], ids=["hard labels", "mixed labels"])
@pytest.mark.parametrize(("kind", "objective"), [("hard", deit_hard_objective), ("soft", deit_soft_objective)])
def test_deit_is_the_papers_objective_on_two_heads(batch: Batch, kind: Any, objective: Any) -> None:
    student, teacher = student_of(methods.DeiT.Config(kind=kind))
    student.train()
    reference = network()
    reference.set_distilled_training(True)
    wanted = objective(*reference.train()(IMAGES), teacher.observe(batch).output, batch.targets)
    record = student.step(batch, teacher.observe(batch), epoch=1)
    assert record.mean("task").item() + record.mean("distill").item() == pytest.approx(wanted.item(), rel=1e-6)


def test_a_student_behind_its_normalisation_has_its_heads_all_the_same() -> None:
    chain = nn.Sequential(nn.Identity(), network())
    student, teacher = student_of(methods.DeiT.Config(), model=chain)
    student.train()
    _, pairings = student.task.pair(student.model, teacher.observe(BATCH), BATCH)
    assert {"main", "distilled"} <= pairings.keys()


def test_of_a_second_token_networks_with_two_are_offered() -> None:
    with pytest.raises(UserError, match=r"with such tokens \(understudy:co_advise_tiny, or .*tokens=2\)"):
        student_of(methods.CoAdvise.Config())


def test_each_head_learns_from_its_own_target_alone() -> None:
    student, teacher = student_of(methods.DeiT.Config())
    student.train()
    student.model.zero_grad()
    _, pairings = student.task.pair(student.model, teacher.observe(BATCH), BATCH)
    heads = student.model.module.head.weight, student.model.module.head_dist.weight
    of_labels = torch.autograd.grad(
        F.cross_entropy(pairings["main"].student_logits, BATCH.targets), heads, allow_unused=True, retain_graph=True
    )
    of_teacher = torch.autograd.grad(pairings["distilled"].student_logits.sum(), heads, allow_unused=True)
    assert [gradient is None for gradient in of_labels] == [False, True]
    assert [gradient is None for gradient in of_teacher] == [True, False]


@pytest.mark.parametrize("name", ["timm:deit_tiny_distilled_patch16_224", "understudy:deit_conv_tiny"])
def test_what_is_deployed_is_the_mean_of_the_heads_and_so_is_what_is_measured(name: str) -> None:
    model = network(name)
    student, teacher = student_of(methods.DeiT.Config(), model=model)
    student.train()
    _, pairings = student.task.pair(student.model, teacher.observe(BATCH), BATCH)
    mean = (pairings["main"].student_logits + pairings["distilled"].student_logits) / 2
    assert torch.allclose(pairings["mean"].student_logits, mean)
    record = student.step(BATCH, teacher.observe(BATCH), epoch=1)
    assert record.mean("top1").item() == pytest.approx(100 * (mean.argmax(1) == BATCH.targets).float().mean().item())
    student.train(False)
    assert student.predict(BATCH).shape == (6, CLASSES)


def test_a_student_whose_methods_name_no_head_learns_by_their_mean_as_before() -> None:
    student, teacher = student_of(methods.KD.Config())
    student.train()
    _, pairings = student.task.pair(student.model, teacher.observe(BATCH), BATCH)
    assert "distilled" not in pairings
    assert torch.equal(pairings["main"].student_logits, network().train()(IMAGES))


@pytest.mark.parametrize("config", [methods.KD, methods.DKD, methods.DIST, methods.NKD])
def test_any_method_on_logits_teaches_a_token(config: Any) -> None:
    student, teacher = student_of(config.Config(on="distilled"))
    student.train()
    before = student.model.module.head_dist.weight.clone()
    student.step(BATCH, teacher.observe(BATCH), epoch=1)
    assert not torch.equal(student.model.module.head_dist.weight, before)


def test_several_tokens_learn_from_several_methods() -> None:
    both = [methods.DeiT.Config(on={"distilled": 0.5}), methods.DIST.Config(on="distilled2")]
    student, teacher = student_of(*both, model=network("timm:deit_tiny_patch16_224", tokens=2))
    student.train()
    record = student.step(BATCH, teacher.observe(BATCH), epoch=1)
    assert {"deit.distilled", "dist.distilled2.inter"} <= record.sums.keys()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_restored_student_takes_the_same_next_step_under_dot(precision: Any, accumulate: int) -> None:
    def fresh() -> tuple[Student, LiveTeacher]:
        model = network("understudy:deit_conv_tiny", drop_path_rate=0.3)
        settings = {"update": DOT.Config(optimizer="adamw", lr=1e-3), "precision": precision, "accumulate": accumulate}
        return student_of(methods.DeiT.Config(), methods.Projector.Config(kl_weight=0), model=model, **settings)

    student, teacher = fresh()
    student.train()
    student.step(BATCH, teacher.observe(BATCH), epoch=1)
    restored, _ = fresh()
    restored.train()
    restored.load_state_dict(copy.deepcopy(student.state_dict()))
    for each in (student, restored):
        each.step(MIXED, teacher.observe(MIXED), epoch=1)
    assert differing(flat(student.state_dict()), flat(restored.state_dict())) == []


@pytest.mark.parametrize(
    ("configs", "model", "said"),
    [
        (
            [methods.DeiT.Config()],
            lambda: teacher_network(),
            r"'deit' teaches the head 'distilled' .* has one head; take",
        ),
        (
            [methods.DIST.Config(on="distilled2")],
            network,
            r"teaches the head 'distilled2' .* the heads logits, distilled;",
        ),
        (
            [methods.KD.Config(on="distiled")],
            network,
            r"'kd' names 'distiled' in method.on, which is unknown; did you mean distilled\?",
        ),
        (
            [methods.DeiT.Config()],
            lambda: network("timm:deit_tiny_patch16_224", tokens=2),
            r"mean of its heads logits, distilled, distilled2, and no method teaches distilled2; name every one",
        ),
        (
            [methods.SimKD.Config(match="embedding"), methods.DeiT.Config()],
            network,
            "mean of its heads logits, distilled, and method 'simkd' deploys a classifier of its own",
        ),
    ],
    ids=[
        "a CNN",
        "a head too far",
        "a misspelt head",
        "a head that nobody teaches",
        "a method with a classifier of its own",
    ],
)
def test_heads_that_cannot_be_taught_are_refused_in_words(configs: Any, model: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        student_of(*configs, model=model())


def test_a_teacher_with_other_classes_is_refused_in_words() -> None:
    with pytest.raises(UserError, match=r"'deit' reads the teacher's logits, but the teacher has 7 classes"):
        student_of(methods.DeiT.Config(), teacher=LiveTeacher(teacher_network(7)))


def test_hard_labels_of_a_teacher_that_is_not_there_are_refused_in_words() -> None:
    around = BuildContext(task=Classification(CLASSES), num_classes=CLASSES, sample=IMAGES)
    with pytest.raises(UserError, match="method 'deit' needs a teacher"):
        build_student(StudentSpec(network(), method=methods.DeiT.Config()), around)


def test_a_distilled_network_of_timms_other_families_has_two_heads_too() -> None:
    torch.manual_seed(0)
    model = timm.create_model("levit_128s", num_classes=CLASSES, embed_dim=(16, 24, 32), num_heads=(2, 2, 2), key_dim=4,
                              depth=(1, 1, 1), img_size=64)  # fmt: skip
    around = BuildContext(
        task=Classification(CLASSES),
        num_classes=CLASSES,
        sample=torch.rand(4, 3, 64, 64),
        teacher=LiveTeacher(teacher_network()),
    )
    student = build_student(StudentSpec(model, method=methods.DeiT.Config()), around)
    student.train()
    images = Batch(around.sample, torch.arange(4))
    assert student.step(images, around.teacher.observe(images), epoch=1).mean("distill").item() > 0
    assert student.device == CPU
