from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn

from helpers.examples import context, few, normal, pairing, row_counts, seeds
from understudy.core.taps import Taps, TapShape
from understudy.methods.base import Context, TapShapes
from understudy.methods.pad import PAD, pad_loss
from understudy.utils.errors import UserError


@pytest.mark.parametrize("num_variances", [1, 4])
@few
@given(seed=seeds, num_rows=row_counts)
def test_pad_equals_the_formula_of_the_paper(num_variances: int, seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 4, seed=seed), normal(num_rows, 4, seed=seed + 1)
    log_variances = normal(num_rows, num_variances, seed=seed + 2)
    v = np.exp(log_variances.numpy())
    expected = ((teacher.numpy() - student.numpy()) ** 2 / (v + 1e-6) + np.log(v)).mean()
    assert pad_loss(student, teacher, log_variances).item() == pytest.approx(expected, rel=1e-9)


@few
@given(seeds, row_counts)
def test_the_best_variance_is_the_squared_distance_itself(seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 4, seed=seed), normal(num_rows, 4, seed=seed + 1)
    best = (student - teacher).square().log().requires_grad_()
    loss = pad_loss(student, teacher, best, eps=1e-30)
    (gradient,) = torch.autograd.grad(loss, best)
    assert loss.item() == pytest.approx(1 + best.mean().item(), rel=1e-9, abs=1e-9)
    assert gradient.abs().max() < 1e-12


def test_unit_variance_gives_the_mean_squared_error() -> None:
    student, teacher = normal(5, 4), normal(5, 4, seed=1)
    found = pad_loss(student, teacher, torch.zeros(5, 1, dtype=torch.float64))
    torch.testing.assert_close(found, (student - teacher).square().mean(), rtol=1e-5, atol=0)


def test_a_sample_of_large_variance_pulls_less() -> None:
    student = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    teacher, log_variances = torch.ones(2, 4).double(), torch.tensor([[0.0], [3.0]], dtype=torch.float64)
    (pull,) = torch.autograd.grad(pad_loss(student, teacher, log_variances), student)
    torch.testing.assert_close(pull[0] / pull[1], torch.full((4,), np.e**3, dtype=torch.float64), rtol=1e-5, atol=0)


@pytest.mark.parametrize("log_variance", [-1000.0, 0.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_variances_and_half_features_are_finite(log_variance: float, dtype: torch.dtype) -> None:
    leaves = [torch.full((4, 3), value, dtype=dtype, requires_grad=True) for value in (300.0, log_variance)]
    loss = pad_loss(leaves[0], torch.full((4, 3), -300.0, dtype=dtype), leaves[1])
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    # In float32: a gradient of 1 / eps is more than a half type holds.
    upcast = [leaf.detach().float().requires_grad_() for leaf in leaves]
    gradients = torch.autograd.grad(pad_loss(upcast[0], torch.full((4, 3), -300.0), upcast[1]), upcast)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_unlike_widths_are_bridged_and_like_ones_compared_as_they_are() -> None:
    assert isinstance(PAD(PAD.Config(), context()).projector, nn.Linear)
    assert isinstance(PAD(PAD.Config(), context(8, 8)).projector, nn.Identity)


@pytest.mark.parametrize(("variance", "count"), [("channel", 8), ("sample", 1)])
def test_variances_are_one_a_channel_or_one_a_sample(variance: str, count: int) -> None:
    method, batch = PAD(PAD.Config.model_validate({"variance": variance}), context()), pairing()
    student, teacher = batch.student_features["embedding"], batch.teacher_features["embedding"]
    log_variances = method.log_variance(student)
    assert log_variances.shape == (7, count)
    torch.testing.assert_close(method(batch)["pad"], pad_loss(method.projector(student), teacher, log_variances))


def test_the_warm_up_is_the_mean_squared_error_and_trains_the_same_projector() -> None:
    method, batch = PAD(PAD.Config(stage="warm_up"), context()), pairing()
    student, teacher = batch.student_features["embedding"], batch.teacher_features["embedding"]
    torch.testing.assert_close(method(batch)["mse"], nn.functional.mse_loss(method.projector(student), teacher))
    later = PAD(PAD.Config(), context()).state_dict()
    assert set(method.state_dict()) == {key for key in later if key.startswith("projector.")}


def test_two_rows_are_needed_once_a_variance_is_learnt() -> None:
    assert PAD.min_rows(PAD.Config()) == 2
    assert PAD.min_rows(PAD.Config(stage="warm_up")) == 1


def test_maps_count_as_their_spatial_mean() -> None:
    maps = {"stages.1": TapShape(6, 4, 4)}
    both = Context(TapShapes(maps, num_classes=5), TapShapes(maps, num_classes=7), num_classes=5)
    config = PAD.Config(stage="warm_up", student_tap="stages.1", teacher_tap="stages.1")
    batch, student, teacher = pairing(3), normal(3, 6, 4, 4), normal(3, 6, 2, 2, seed=1)
    batch = type(batch)(
        batch.student_logits,
        None,
        batch.labels,
        student_features={"stages.1": student},
        teacher_features={"stages.1": teacher},
    )
    expected = nn.functional.mse_loss(student.mean(dim=(2, 3)), teacher.mean(dim=(2, 3)))
    torch.testing.assert_close(PAD(config, both)(batch)["mse"], expected)
    assert PAD.taps_for(config) == Taps(student=("stages.1",), teacher=("stages.1",))


def test_a_group_of_stages_is_refused_with_the_stages_there_are() -> None:
    shapes = TapShapes({f"stages.{i}": TapShape(6, 4, 4) for i in range(2)}, num_classes=5)
    several = Context(shapes, shapes, num_classes=5)
    with pytest.raises(UserError, match=r"method.student_tap 'stages'.*stages\.0, stages\.1.*name one"):
        PAD(PAD.Config(student_tap="stages"), several)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(4, 6\), \(4, 8\) and \(4, 8\)"):
        pad_loss(normal(4, 6), normal(4, 8), normal(4, 8))
    with pytest.raises(UserError, match=r"\(4, 8\), \(4, 8\) and \(4, 2\)"):
        pad_loss(normal(4, 8), normal(4, 8), normal(4, 2))
