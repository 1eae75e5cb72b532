"""Agreement and conflict of two gradients, and projectors beside their fixed point, against hand and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from understudy.analysis import conflict, consistent_part, cosine, decorrelation, fixed_point, spectrum
from understudy.utils.errors import UserError

torch.set_num_threads(1)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestConflict:
    def test_a_quadratic_of_two_parameters_by_hand(self) -> None:
        # task (x - 1)^2 / 2 + y^2 / 2 and distill (x + 1)^2 / 2 + 2 y^2 at (0, 3): gradients (-1, 3) and (1, 12)
        found = conflict([torch.tensor([-1.0]), torch.tensor([3.0])], [torch.tensor([1.0]), torch.tensor([12.0])])
        assert found.cosine == pytest.approx(35 / (10 * 145) ** 0.5)
        assert found.opposed == 50
        assert found.consistent == pytest.approx(100 * 6 / 17)  # twice the 3 that both have, of 1 + 3 + 1 + 12
        assert found.difference == pytest.approx((2**2 + 9**2) ** 0.5)
        assert found.total == pytest.approx(15)

    def test_parts_add_up_and_dots_difference_to_sgd_does_not_depend_on_the_shared_one(self) -> None:
        task, distill, momentum, delta = drawn(50), drawn(50, seed=1), 0.9, 0.075
        shared = consistent_part(task, distill)
        sgd = momentum * (task + distill)  # eq. 7 and 8 without the new gradients, which both have
        dot = (momentum - delta) * (task - shared + shared) + (momentum + delta) * (distill - shared + shared)
        difference = delta * ((distill - shared) - (task - shared))
        assert torch.allclose(dot - sgd, difference)  # eq. 9
        assert float(difference.norm()) == pytest.approx(delta * conflict([task], [distill]).difference)
        assert ((task - shared).abs() <= task.abs()).all()  # the shared part overshoots neither
        assert ((distill - shared).abs() <= distill.abs()).all()

    def test_the_cosine_is_torchs_over_the_pieces_joined(self) -> None:
        a, b = [drawn(3, 4), drawn(5)], [drawn(3, 4, seed=2), drawn(5, seed=3)]
        joined = [torch.cat([piece.flatten() for piece in pieces]) for pieces in (a, b)]
        assert cosine(a, b) == pytest.approx(float(torch.cosine_similarity(*joined, dim=0)))

    def test_a_gradient_of_zero_has_no_angle(self) -> None:
        assert cosine([torch.zeros(3)], [torch.ones(3)]) != cosine([torch.zeros(3)], [torch.ones(3)])

    def test_other_shapes_are_refused(self) -> None:
        with pytest.raises(UserError, match="parameter by parameter"):
            conflict([torch.zeros(3)], [torch.zeros(2)])


class TestProjection:
    def test_singular_values_are_torchs_of_the_matrix(self) -> None:
        weight = drawn(6, 4)
        assert torch.allclose(spectrum(weight[..., None, None]), torch.linalg.svd(weight).S)

    def test_the_fixed_point_is_least_squares(self) -> None:
        student, teacher = drawn(40, 5), drawn(40, 3, seed=1)
        found = fixed_point(drawn(5, 3, seed=2), student, teacher, ridge=0)
        centred = student - student.mean(0), teacher - teacher.mean(0)
        expected = torch.linalg.lstsq(*centred).solution
        assert torch.allclose(torch.from_numpy(found.solution), expected)

    def test_a_projector_at_its_fixed_point_has_distance_0_and_so_has_its_form_on_whitened_features(self) -> None:
        student, teacher = drawn(40, 5), drawn(40, 3, seed=1)
        solution = torch.from_numpy(fixed_point(drawn(5, 3), student, teacher, ridge=0).solution)
        found = fixed_point(solution, student, teacher, ridge=0)
        assert found.distance == pytest.approx(0, abs=1e-12)
        assert (found.alignment, found.alignment_whitened) == (pytest.approx(1), pytest.approx(1))

    def test_the_flow_of_equation_7_ends_there(self) -> None:
        student, teacher = drawn(40, 5) / 7, drawn(40, 3, seed=1) / 7
        student, teacher = student - student.mean(0), teacher - teacher.mean(0)
        weights = drawn(5, 3, seed=2)
        for _ in range(3000):
            weights = weights + 0.5 * (student.T @ teacher - student.T @ student @ weights)
        assert fixed_point(weights, student, teacher, ridge=0).distance < 1e-6

    def test_a_copy_is_correlated_and_noise_is_not(self) -> None:
        column = drawn(500, 1)
        assert decorrelation(column, -3 * column + 1) == pytest.approx(1)
        assert decorrelation(column, drawn(500, 1, seed=5)) < 0.1

    def test_columns_that_do_not_vary_are_left_out(self) -> None:
        rows = torch.cat([drawn(20, 1), torch.ones(20, 1)], dim=1)
        assert decorrelation(rows, rows[:, :1]) == pytest.approx(1)

    def test_shapes_that_do_not_go_together_are_refused(self) -> None:
        with pytest.raises(UserError, match="W_p"):
            fixed_point(drawn(5, 3), drawn(40, 4), drawn(40, 3))
