"""MiniLM: by the formula of the paper in NumPy, and what it makes of networks of other widths and grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from understudy import LiveTeacher, StudentSpec, UserError, methods
from understudy.core.batch import Batch
from understudy.methods.minilm import minilm_loss
from understudy.models import create_model
from understudy.tasks import Classification
from understudy.training.build import BuildContext, build_student, tap_teacher
from understudy.training.student import Student

torch.set_num_threads(1)

CLASSES = 5
BATCH = Batch(torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4))


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relation(sides: Tensor, num_heads: int) -> np.ndarray:
    left, right = sides.numpy()
    width = left.shape[1] // num_heads
    found = []
    for head in range(num_heads):
        own = slice(head * width, (head + 1) * width)
        scores = np.einsum("mdi,mdj->mij", left[:, own], right[:, own]) / np.sqrt(width)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        found.append(shares / shares.sum(-1, keepdims=True))
    return np.stack(found, axis=1)  # (M, heads, N, N)


@pytest.mark.parametrize("num_heads", [1, 2])
def test_the_loss_is_the_papers_formula(num_heads: int) -> None:
    student, teacher = drawn(2, 3, 4, 5, seed=0), drawn(2, 3, 6, 5, seed=1)
    ours, theirs = relation(student, num_heads), relation(teacher, num_heads)
    wanted = (theirs * (np.log(theirs) - np.log(ours))).sum(-1).mean()
    assert minilm_loss(student, teacher, num_heads=num_heads).item() == pytest.approx(wanted, rel=1e-12)


def test_equal_relations_cost_nothing_and_the_teacher_has_no_gradient() -> None:
    student, teacher = drawn(2, 3, 4, 5, seed=0).requires_grad_(), drawn(2, 3, 4, 5, seed=0).requires_grad_()
    loss = minilm_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert teacher.grad is None


def test_values_that_no_softmax_survives_naively_are_finite() -> None:
    student, teacher = 200 * drawn(2, 3, 4, 5, seed=0).float(), 200 * drawn(2, 3, 4, 5, seed=1).float()
    student.requires_grad_()
    loss = minilm_loss(student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shapes", "num_heads", "said"),
    [
        (((2, 3, 4, 5), (2, 3, 4, 6)), 1, "relates patches of the same images"),
        (((2, 3, 4, 5), (2, 3, 6, 5)), 4, "4 heads do not divide the teacher's 6 channels"),
    ],
)
def test_what_cannot_be_related_is_refused(shapes: tuple[tuple[int, ...], ...], num_heads: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        minilm_loss(*(torch.zeros(shape) for shape in shapes), num_heads=num_heads)


def vit(name: str = "timm:vit_tiny_patch16_224", **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    settings = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, **kwargs}
    return create_model(name, num_classes=CLASSES, weights="none", image_size=16, kwargs=settings).module


def student_of(
    config: methods.MiniLM.Config, teacher: nn.Module, model: nn.Module | None = None
) -> tuple[Student, LiveTeacher]:
    live = LiveTeacher(teacher)
    tap_teacher(live, [config])
    around = BuildContext(task=Classification(CLASSES), num_classes=CLASSES, sample=BATCH.images, teacher=live)
    return build_student(StudentSpec(model or vit(), method=config), around), live


def test_a_network_that_is_its_own_teacher_has_nothing_to_learn() -> None:
    student, teacher = student_of(methods.MiniLM.Config(), vit())
    record = student.step(BATCH, teacher.observe(BATCH), epoch=1)
    assert [record.mean(f"minilm.{relation}").item() for relation in ("attention", "values")] == pytest.approx(
        [0, 0], abs=1e-6
    )


def test_the_attention_is_the_networks_own_but_for_its_class_token() -> None:
    """At the networks' own number of heads, the relation is what their attention is a softmax of."""
    network = vit(class_token=False, global_pool="avg")
    caught = {}
    attention = network.blocks[-1].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_pre_hook(lambda _, inputs: caught.update(attention=inputs[0]))
    student, _ = student_of(methods.MiniLM.Config(num_heads=2), vit(depth=1, embed_dim=24), network)
    _, features = student.model.eval()(BATCH.images)
    qkv = features["attention"].flatten(2).reshape(4, 3, 12, 16)
    own = relation(torch.stack([qkv[:, 0], qkv[:, 1]]).detach(), 2)
    assert np.allclose(own, caught["attention"].detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("relations", [("attention", "values"), ("queries", "keys", "values")])
@pytest.mark.parametrize(
    "teacher",
    [{"embed_dim": 24, "depth": 3}, {"patch_size": 2}, {"patch_size": 5}, {"patch_size": 8, "embed_dim": 18}],
    ids=["wider", "finer grid", "grid that is no multiple", "coarser grid"],
)
def test_widths_depths_and_grids_may_differ(teacher: dict[str, int], relations: tuple[str, ...]) -> None:
    student, live = student_of(methods.MiniLM.Config(relations=relations), vit(**teacher))
    before = student.model.module.blocks[-1].attn.qkv.weight.clone()
    record = student.step(BATCH, live.observe(BATCH), epoch=1)
    assert record.mean("distill").isfinite()
    assert not torch.equal(student.model.module.blocks[-1].attn.qkv.weight, before)


@pytest.mark.parametrize(
    ("config", "teacher", "said"),
    [
        ({}, "cifar:resnet8", "'minilm': the teacher has no layer that gives queries, keys and values of whole images"),
        (
            {"num_heads": 5},
            None,
            r"num_heads 5 of 'minilm' must divide .* 12 and the teacher's 12 .* 1, 2, 3, 4, 6, 12 do",
        ),
        ({"teacher_tap": "head"}, None, "wants queries, keys and values .* the teacher's 'head' holds 5"),
    ],
)
def test_networks_without_attention_are_refused_in_words(
    config: dict[str, object], teacher: str | None, said: str
) -> None:
    network = vit() if teacher is None else create_model(teacher, num_classes=CLASSES, weights="none").module
    with pytest.raises(UserError, match=said):
        student_of(methods.MiniLM.Config(**config), network)
