from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_embeddings import (
    STUDENT,
    TEACHER,
    built,
    check_gradients,
    check_half_autocast,
    check_order,
    deep_context,
    deep_pairing,
    side,
)
from understudy.methods.base import Context
from understudy.methods.ofd import OFD, negative_margin, ofd_loss
from understudy.utils.errors import UserError

TAPS = ("preact_stages.1", "preact_stages.2", "preact_stages.3")


def loss_by_the_paper(student: list[Tensor], teacher: list[Tensor], margins: list[Tensor]) -> float:
    """Place by place, in loops."""
    total = 0.0
    for stage, (s, t, m) in enumerate(zip(student, teacher, margins, strict=True)):
        distance = 0.0
        for place, s_value in np.ndenumerate(s.numpy()):
            t_value = max(t.numpy()[place], m.numpy()[place[1]])
            distance += 0.0 if s_value <= t_value <= 0 else (t_value - s_value) ** 2
        total += distance / len(s) / 2 ** (len(margins) - 1 - stage)
    return total


@few
@given(seeds, row_counts)
def test_ofd_equals_the_partial_distance_of_the_paper(seed: int, num_rows: int) -> None:
    shapes = [(num_rows, 3, 4, 4), (num_rows, 5, 2, 2)]
    student = [normal(*shape, seed=seed + i) for i, shape in enumerate(shapes)]
    teacher = [normal(*shape, seed=seed + 5 + i) for i, shape in enumerate(shapes)]
    margins = [-normal(shape[1], seed=seed + 9 + i).abs() for i, shape in enumerate(shapes)]
    expected = loss_by_the_paper(student, teacher, margins)
    assert ofd_loss(student, teacher, margins).item() == pytest.approx(expected, rel=1e-12)


@few
@given(seeds)
def test_a_student_below_what_the_teacher_suppresses_or_equal_to_it_has_no_loss(seed: int) -> None:
    teacher, margin = normal(3, 4, 2, 2, seed=seed), -normal(4, seed=seed + 1).abs()
    rectified = torch.maximum(teacher, margin[:, None, None])
    below = torch.where(teacher > 0, teacher, rectified - normal(3, 4, 2, 2, seed=seed + 2).abs())
    assert ofd_loss([below], [teacher], [margin]) == 0
    assert ofd_loss([rectified], [teacher], [margin]) == 0
    assert ofd_loss([rectified + 0.1], [teacher], [margin]) > 0


def test_the_margin_is_the_mean_of_the_negative_half_of_a_normal_distribution() -> None:
    weight, bias = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, -0.3])
    samples = np.linspace(-9, 9, 400_001)
    density = np.exp(-(samples**2) / 2)
    for channel, found in enumerate(negative_margin(weight, bias)):
        values = float(bias[channel]) + abs(float(weight[channel])) * samples
        expected = (values * density)[values < 0].sum() / density[values < 0].sum()
        assert found.item() == pytest.approx(expected, abs=1e-4)


def test_a_channel_that_is_hardly_ever_negative_has_a_margin_of_three_deviations() -> None:
    assert negative_margin(torch.tensor([-0.5]), torch.tensor([2.0])).item() == -1.5
    assert negative_margin(torch.tensor([0.5]), torch.tensor([1.5])).item() != -1.5


def test_a_channel_without_scale_has_the_margin_of_a_constant() -> None:
    found = negative_margin(torch.zeros(3), torch.tensor([-0.5, 0.0, 0.5]))
    torch.testing.assert_close(found, torch.tensor([-0.5, 0.0, 0.0]), rtol=0, atol=1e-12)


def test_larger_teacher_maps_are_averaged_down() -> None:
    student, teacher, margin = normal(2, 3, 2, 2), normal(2, 3, 4, 4, seed=1), torch.full((3,), -math.inf)
    averaged = teacher.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(ofd_loss([student], [teacher], [margin]), ofd_loss([student], [averaged], [margin]))


def test_channels_or_stages_that_differ_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(2, 3\).*\(2, 4\)"):
        ofd_loss([normal(2, 3, 2, 2)], [normal(2, 4, 2, 2)], [torch.zeros(4)])
    with pytest.raises(UserError, match="0 margins"):
        ofd_loss([normal(2, 3, 2, 2)], [normal(2, 3, 2, 2)], [])


def test_by_default_every_stage_but_the_stem_is_compared() -> None:
    context = deep_context()
    method, pairing = built(OFD, context), deep_pairing(context)
    assert [tuple(connector[0].weight.shape[:2]) for connector in method.connectors] == [(6, 4), (7, 5), (8, 6)]
    check_gradients(method, pairing, *TAPS)


def test_stages_can_be_chosen() -> None:
    context = deep_context()
    check_gradients(built(OFD, context, student_stages=[3], teacher_stages=[2]), deep_pairing(context), TAPS[2])


@few
@given(seeds)
def test_order_of_the_batch_leaves_ofd_unchanged(seed: int) -> None:
    context = deep_context()
    check_order(built(OFD, context), deep_pairing(context, seed=seed), seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_features_in_half_types_stay_finite(dtype: torch.dtype) -> None:
    context = deep_context()
    check_half_autocast(built(OFD, context), deep_pairing(context), dtype)


def test_a_teacher_without_batch_norm_before_its_activations_is_refused() -> None:
    context = Context(student=side(STUDENT), teacher=side(TEACHER, norms=False), num_classes=5)
    with pytest.raises(UserError, match=r"'ofd'.*batch norm before 'preact_stages.1'.*'fitnet'"):
        OFD(OFD.Config(), context)


def test_margins_are_saved_with_the_connectors_but_not_trained() -> None:
    method = built(OFD, deep_context())
    assert {f"margin_{number}" for number in range(3)} <= method.state_dict().keys()
    assert not any("margin" in name for name, _ in method.named_parameters())
