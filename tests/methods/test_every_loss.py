"""What holds for every method, and for every loss on logits."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import class_counts, few, normal, random_labels, row_counts, seeds
from helpers.logit_losses import CORE, EVERY, LogitLoss
from helpers.whole_networks import smallest, whole_pairing
from understudy.methods import METHODS
from understudy.utils.errors import UserError

EXACT = {name: loss for name, loss in CORE.items() if name not in ("dist", "dist_t4")}  # their eps leaves 1e-4

every_loss = pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY.keys())
core_loss = pytest.mark.parametrize("loss", CORE.values(), ids=CORE.keys())
every_method = pytest.mark.parametrize("method", sorted(METHODS))
LEAVE_THE_STUDENT = {"ft"}  # in the first of its two runs, which its smallest settings are
NOT_ON_ARXIV = {"fsp", "ifvd", "mlld", "skd_streamlined", "srrl"}


@pytest.mark.parametrize("loss", EXACT.values(), ids=EXACT.keys())
@few
@given(seed=seeds, num_rows=row_counts, num_classes=class_counts)
def test_a_student_that_equals_its_teacher_has_no_loss(
    loss: LogitLoss, seed: int, num_rows: int, num_classes: int
) -> None:
    logits = normal(num_rows, num_classes, seed=seed, scale=1.0)
    found = loss(logits, logits.clone(), random_labels(num_rows, num_classes, seed))
    assert abs(found.item()) < 1e-12


@core_loss
@few
@given(seed=seeds, num_rows=row_counts, num_classes=class_counts)
def test_a_student_that_differs_from_its_teacher_has_a_loss(
    loss: LogitLoss, seed: int, num_rows: int, num_classes: int
) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    assert loss(student, teacher, random_labels(num_rows, num_classes, seed)).item() > 1e-3


@every_loss
@few
@given(seed=seeds, num_rows=row_counts, num_classes=class_counts)
def test_order_of_the_batch_leaves_the_loss_unchanged(
    loss: LogitLoss, seed: int, num_rows: int, num_classes: int
) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    labels = random_labels(num_rows, num_classes, seed)
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss(student[order], teacher[order], labels[order]), loss(student, teacher, labels))


def hard_batches() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Logits at which losses written with probabilities break down."""
    one_hot, mild = 2000 * torch.eye(4) - 1000, normal(4, 4).float()
    right, wrong, same = torch.arange(4), torch.arange(4).flip(0), torch.zeros(4, dtype=torch.long)
    return {
        "both_certain_and_right": (one_hot, one_hot.clone(), right),
        "student_certain_teacher_mild": (one_hot, mild, wrong),
        "teacher_certain_student_mild": (mild, one_hot, right),
        "certain_of_different_classes": (one_hot, one_hot.flip(0), right),
        "equal_logits_on_both_sides": (torch.zeros(4, 4), torch.zeros(4, 4), right),
        "equal_logits_of_the_student": (torch.full((4, 4), 1000.0), mild, right),
        "batch_of_one_class": (one_hot[:1].expand(4, 4), mild[:1].expand(4, 4), same),
    }


@every_loss
@pytest.mark.parametrize("batch", hard_batches().values(), ids=hard_batches().keys())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_hard_batches_have_finite_loss_and_gradient(
    loss: LogitLoss, batch: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype
) -> None:
    # As a Pairing brings them: rounded to the model's dtype, then raised.
    student = batch[0].to(dtype).to(torch.promote_types(dtype, torch.float32)).clone().requires_grad_()

    found = loss(student, batch[1].to(dtype), batch[2])
    found.backward()

    torch.testing.assert_close(loss(batch[0].to(dtype), batch[1].to(dtype), batch[2]), found)
    assert found.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_under_autocast_are_computed_in_float32(loss: LogitLoss, dtype: torch.dtype) -> None:
    student, teacher, labels = normal(6, 5).to(dtype), normal(6, 5, seed=1).to(dtype), random_labels(6, 5)
    with torch.autocast("cpu", dtype=dtype):
        found = loss(student, teacher, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(student.float(), teacher.float(), labels))


@every_loss
def test_float64_logits_stay_float64(loss: LogitLoss) -> None:
    assert loss(normal(4, 5), normal(4, 5, seed=1), random_labels(4, 5)).dtype == torch.float64


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "dist_kl", "nkd", "ofa", "rld", "deepkd", "logit_std"])
def test_a_temperature_that_is_not_above_zero_is_refused(name: str, temperature: float) -> None:
    loss: Any = getattr(import_module(f"understudy.methods.{name}"), f"{name}_loss")
    labels = [] if name in ("kd", "dist", "dist_kl", "logit_std") else [random_labels(4, 5)]
    setting = {"tau" if name.startswith("dist") else "temperature": temperature}
    with pytest.raises(UserError, match="a temperature divides the logits and must be above 0, got"):
        loss(normal(4, 5), normal(4, 5, seed=1), *labels, **setting)


@every_method
def test_gradients_reach_student_and_connectors_and_never_the_teacher(method: str) -> None:
    built, batch = smallest(method), whole_pairing()

    sum(built(batch).values(), torch.zeros(())).backward()

    reached = {tap.split(".")[0] for tap, feature in batch.student_features.items() if has_gradient(feature)}
    taps = built.taps_for(built.config).student if method not in LEAVE_THE_STUDENT else ()
    asked_for = {tap.split(".")[0] for tap in taps}
    assert reached == asked_for
    assert reached or has_gradient(batch.student_logits) or method in LEAVE_THE_STUDENT
    for weight in built.parameters():
        assert has_gradient(weight) == weight.requires_grad
    assert batch.teacher_logits is not None
    assert batch.teacher_logits.grad is None
    assert all(feature.grad is None for feature in batch.teacher_features.values())


@every_method
def test_defaults_say_where_they_come_from(method: str) -> None:
    assert METHODS[method].default_loss.source
    paper = METHODS[method].paper
    assert paper is not None
    assert paper.arxiv or method in NOT_ON_ARXIV


@every_method
def test_the_same_seed_builds_the_same_connectors(method: str) -> None:
    torch.testing.assert_close(smallest(method).state_dict(), smallest(method).state_dict(), rtol=0, atol=0)


def has_gradient(tensor: Tensor) -> bool:
    return tensor.grad is not None and bool(tensor.grad.any())
