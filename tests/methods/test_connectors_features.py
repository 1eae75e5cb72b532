from __future__ import annotations

import pytest
import torch

from helpers.examples import normal
from helpers.examples_features import Shape
from understudy.core.taps import TapShape
from understudy.methods.shared.maps import comparable_maps, conv_regressor, on_one_grid
from understudy.utils.errors import UserError


@pytest.mark.parametrize(
    ("student", "teacher", "kernel", "result"),
    [
        ((3, 8, 8), (5, 8, 8), (1, 1), (5, 8, 8)),
        ((3, 8, 8), (5, 4, 4), (3, 3), (5, 4, 4)),
        ((3, 4, 4), (5, 8, 8), (4, 4), (5, 8, 8)),
        ((3, 7, 7), (5, 5, 5), (3, 3), (5, 5, 5)),
        ((3, 7, 6), (5, 5, 6), (3, 1), (5, 5, 6)),
        ((3, 16, 16), (5, 4, 4), (1, 1), (5, 4, 4)),
        ((3, 3, 3), (5, 8, 8), (1, 1), (5, 3, 3)),
        ((3,), (5, 2, 2), (4, 4), (5, 2, 2)),
        ((3,), (5,), (1, 1), (5, 1, 1)),
    ],
)
def test_regressor_takes_its_form_from_the_two_sizes(
    student: Shape, teacher: Shape, kernel: Shape, result: Shape
) -> None:
    regressor = conv_regressor(TapShape(*student), TapShape(*teacher))
    maps = normal(2, *student, *(1,) * (3 - len(student))).float()
    assert regressor.conv.kernel_size == kernel
    assert regressor(maps).shape == (2, *result)
    assert (regressor(maps) >= 0).all()


def test_regressor_without_relu_gives_negative_values_too() -> None:
    shape = TapShape(3, 4, 4)
    assert (conv_regressor(shape, shape, has_relu=False)(normal(2, 3, 4, 4).float()) < 0).any()


def test_the_larger_map_is_averaged_down_to_the_smaller() -> None:
    student, teacher = normal(2, 3, 4, 6), normal(2, 5, 8, 3, seed=1)
    ours, theirs = comparable_maps(student, teacher)
    torch.testing.assert_close(ours, student.reshape(2, 3, 4, 3, 2).mean(dim=4))
    torch.testing.assert_close(theirs, teacher.reshape(2, 5, 4, 2, 3).mean(dim=3))


def test_unlike_rows_and_unlike_channels_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(2, 3, 4, 4\) and \(3, 3, 4, 4\).*same rows"):
        comparable_maps(normal(2, 3, 4, 4), normal(3, 3, 4, 4))
    with pytest.raises(UserError, match="channels of the teacher first"):
        comparable_maps(normal(2, 3, 4, 4), normal(2, 5, 4, 4), channels_agree=True)


def test_a_grid_that_is_a_multiple_is_averaged_block_by_block() -> None:
    student, teacher = normal(2, 3, 6, 4, seed=0), normal(2, 5, 2, 2, seed=1)
    ours, theirs = on_one_grid(student, teacher)
    blocks = student.reshape(2, 3, 2, 3, 2, 2).mean(dim=(3, 5))
    assert torch.allclose(ours, blocks)
    assert torch.equal(theirs, teacher)


def test_a_grid_that_is_no_multiple_is_interpolated_whichever_side_has_it() -> None:
    plane = torch.linspace(0, 1, 14).expand(1, 1, 14, 14)  # rises from left to right
    fine, coarse = on_one_grid(plane, torch.zeros(1, 1, 6, 6))
    assert (fine.shape, coarse.shape) == ((1, 1, 6, 6), (1, 1, 6, 6))
    assert (fine[0, 0, 0].diff() > 0.1).all()  # and so do its six columns, alike from either end
    assert torch.allclose(fine + fine.flip(3), torch.ones_like(fine), atol=1e-6)
    assert torch.equal(on_one_grid(torch.zeros(1, 1, 6, 6), plane)[1], fine)
