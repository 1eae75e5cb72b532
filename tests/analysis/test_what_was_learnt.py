"""Calibration, relations, similarity, curvature, landscapes and equivariance against closed forms and libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassCalibrationError

from understudy.analysis import (
    CKA,
    calibration,
    confusion,
    correlation_gap,
    effective_classes,
    equivariance,
    filter_normalised,
    hessian_trace,
    landscape,
    largest_eigenvalues,
    linear_cka,
    random_direction,
    relations,
)
from understudy.analysis.calibration import reliability
from understudy.methods.dist import dist_loss
from understudy.utils.errors import UserError


@pytest.fixture(scope="module")
def logits() -> Tensor:
    return torch.randn(400, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2


@pytest.fixture(scope="module")
def labels(logits: Tensor) -> Tensor:
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (logits + 2 * noise).argmax(1)


class TestCalibration:
    def test_the_error_is_torchmetrics(self, logits: Tensor, labels: Tensor) -> None:
        for num_bins in (10, 15):
            theirs = MulticlassCalibrationError(7, n_bins=num_bins, norm="l1")(logits.softmax(1).float(), labels)
            ours = calibration(logits.softmax(1), labels, num_bins=num_bins)
            assert ours.error == pytest.approx(100 * float(theirs), abs=1e-3)
            assert ours.counts.sum() == 400

    def test_the_likelihood_is_the_cross_entropy(self, logits: Tensor, labels: Tensor) -> None:
        expected = nn.functional.cross_entropy(logits, labels)
        assert calibration(logits.softmax(1), labels).nll == pytest.approx(float(expected))

    def test_one_who_is_right_as_often_as_it_says_has_none(self) -> None:
        said = np.tile([0.75, 0.25], (4, 1))
        found = calibration(said, np.array([0, 0, 0, 1]))
        assert (found.error, found.largest) == (0.0, 0.0)
        assert np.nansum(found.accuracy) == 75.0

    def test_a_confidence_on_a_bound_belongs_to_the_bin_below_and_the_largest_gap_is_that_of_a_bin(self) -> None:
        sure, right = np.array([0.0, 0.25, 0.25, 0.5, 0.65, 0.75, 1.0]), np.array([0, 0, 1, 1, 1, 1, 0], dtype=bool)
        found = reliability(sure, right, sure, num_bins=4)
        assert found.counts.tolist() == [3, 1, 2, 1]
        assert found.confidence.tolist() == pytest.approx([100 / 6, 50, 70, 100])
        assert found.accuracy.tolist() == pytest.approx([100 / 3, 100, 100, 0])
        assert found.largest == pytest.approx(100)
        assert found.error == pytest.approx((50 + 50 + 60 + 100) / 7)

    def test_a_single_row_that_is_no_probability_is_refused(self, logits: Tensor, labels: Tensor) -> None:
        rows = logits.softmax(1).clone()
        rows[3] *= 0.9
        with pytest.raises(UserError, match="take the softmax"):
            calibration(rows, labels)

    def test_logits_are_refused_with_the_way_out(self, logits: Tensor, labels: Tensor) -> None:
        with pytest.raises(UserError, match="take the softmax"):
            calibration(logits, labels)


def test_confusion_counts_pairs_and_classes_in_use() -> None:
    said, true = np.array([0, 1, 1, 2, 2, 2]), np.array([0, 1, 2, 2, 2, 0])
    assert confusion(said, true, num_classes=3).tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 2]]
    assert effective_classes(np.array([0, 1, 2, 3]), num_classes=4) == pytest.approx(4.0)
    assert effective_classes(np.zeros(5, dtype=int), num_classes=4) == pytest.approx(1.0)
    with pytest.raises(UserError, match=r"predictions must be class numbers in 0\.\.1"):
        confusion(said, true, num_classes=2)


class TestRelations:
    def test_they_are_what_dists_losses_are_one_minus_of(self, logits: Tensor) -> None:
        other = logits.flip(0) + logits
        found = relations(logits.softmax(1), other.softmax(1))
        inter = dist_loss(logits, other, beta=1.0, gamma=0.0, tau=1.0)
        intra = dist_loss(logits, other, beta=0.0, gamma=1.0, tau=1.0)
        assert 1 - found.per_image.mean() == pytest.approx(float(inter), abs=1e-6)
        assert 1 - found.per_class.mean() == pytest.approx(float(intra), abs=1e-6)

    def test_class_correlations_of_the_teacher_itself_have_no_gap(self, logits: Tensor) -> None:
        apart, mean = correlation_gap(3 * logits + 1, logits)
        assert np.abs(apart).max() < 1e-12
        assert mean < 1e-12
        _, other = correlation_gap(logits.flip(1), logits)
        assert other > 0.01


class TestSimilarity:
    def test_a_rotation_changes_nothing_and_strangers_are_unlike(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(64, 10, generator=generator, dtype=torch.float64)
        turn = torch.linalg.qr(torch.randn(10, 10, generator=generator, dtype=torch.float64)).Q
        assert linear_cka(x, 3 * x @ turn) == pytest.approx(1.0)
        strangers = [
            linear_cka(torch.randn(64, 200, generator=generator), torch.randn(64, 200, generator=generator))
            for _ in range(20)
        ]
        # The biased estimate gives 0.75 here: few images in many dimensions look alike.
        assert abs(np.mean(strangers)) < 0.05

    def test_hsic_without_bias_is_its_sum_over_four_different_images(self) -> None:
        from itertools import permutations

        x, y = (torch.randn(6, 3, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (1, 2))
        k, m = x @ x.T, y @ y.T  # the estimate is the same whether rows are centred or not

        def exact(a: Tensor, b: Tensor) -> float:
            tuples = list(permutations(range(6), 4))
            terms = [a[i, j] * (b[i, j] + b[q, r] - 2 * b[i, q]) for i, j, q, r in tuples]
            return float(torch.stack(terms).mean())

        expected = exact(k, m) / (exact(k, k) * exact(m, m)) ** 0.5
        assert linear_cka(x, y) == pytest.approx(expected, rel=1e-9)

    def test_batches_add_up(self) -> None:
        x = torch.randn(400, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y = x @ torch.randn(5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        y = y + 0.5 * torch.randn(400, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        by_batches = CKA()
        for start in range(0, 400, 50):
            by_batches.add({"a": x[start : start + 50]}, {"b": y[start : start + 50]})
        assert by_batches.result()["a", "b"] == pytest.approx(linear_cka(x, y), abs=0.03)

    def test_three_images_are_too_few(self) -> None:
        with pytest.raises(UserError, match="4 images or more"):
            linear_cka(torch.zeros(3, 2), torch.zeros(3, 2))


class TestCurvature:
    def test_of_a_quadratic_it_is_exact(self) -> None:
        curvature = torch.tensor([5.0, -3.0, 2.0, 0.5], dtype=torch.float64)
        turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).Q
        hessian = turn @ torch.diag(curvature) @ turn.T
        weights = [nn.Parameter(torch.ones(3, dtype=torch.float64)), nn.Parameter(torch.ones(1, dtype=torch.float64))]

        def loss() -> Tensor:
            w = torch.cat(weights)
            return 0.5 * w @ hessian @ w

        assert largest_eigenvalues(loss, weights, count=4) == pytest.approx([5.0, 2.0, 0.5, -3.0])
        trace = hessian_trace(loss, weights, samples=400)
        assert abs(trace.mean - 4.5) < 4 * trace.standard_error

    def test_of_attention_it_is_found_too(self) -> None:
        given = torch.randn(1, 1, 4, 8, generator=torch.Generator().manual_seed(0))
        weights = nn.Parameter(torch.eye(8))

        def loss() -> Tensor:
            return (F.scaled_dot_product_attention(given @ weights, given, given) ** 2).sum()

        assert largest_eigenvalues(loss, [weights], count=1, steps=4)[0] > 0

    def test_of_a_small_network_it_is_the_hessians(self) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        x, y = torch.randn(20, 4, dtype=torch.float64), torch.randint(0, 3, (20,))
        names = [name for name, _ in net.named_parameters()]

        def of(*values: Tensor) -> Tensor:
            out = torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x,))
            return nn.functional.cross_entropy(out, y)

        parameters = tuple(net.parameters())
        blocks = torch.autograd.functional.hessian(of, parameters)
        rows = [
            torch.cat([part.reshape(p.numel(), -1) for part in row], 1)
            for p, row in zip(parameters, blocks, strict=True)
        ]
        exact = torch.cat(rows)
        found = largest_eigenvalues(lambda: of(*parameters), parameters, count=3, steps=43)
        assert found == pytest.approx(torch.linalg.eigvalsh(exact).flip(0)[:3].tolist(), rel=1e-6)
        trace = hessian_trace(lambda: of(*parameters), parameters, samples=200)
        assert abs(trace.mean - float(exact.trace())) < 4 * trace.standard_error

    def test_frozen_networks_are_refused(self) -> None:
        with pytest.raises(UserError, match="none of the parameters requires a gradient"):
            hessian_trace(lambda: torch.zeros(()), [torch.zeros(2)])


class TestLandscape:
    def network(self) -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()

    def test_the_centre_is_the_loss_and_the_weights_come_back(self) -> None:
        net = self.network()
        x, y = torch.randn(8, 3, 6, 6), torch.arange(8) % 3

        def loss() -> float:
            with torch.no_grad():
                return float(nn.functional.cross_entropy(net(x), y))

        before, centre = {k: v.clone() for k, v in net.state_dict().items()}, loss()
        ways = [filter_normalised(net, random_direction(net, seed=seed)) for seed in (0, 1)]
        line = landscape(net, loss, ways[:1], steps=(-0.5, 0.0, 0.5))
        plane = landscape(net, loss, ways, steps=(-0.5, 0.0, 0.5))
        assert line.losses[1] == plane.losses[1, 1] == centre
        assert plane.losses[:, 1].tolist() == line.losses.tolist()
        assert line.sharpness == pytest.approx(100 * (line.losses.max() - centre) / (1 + centre))
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    def test_filters_keep_their_length_and_a_scaled_network_has_the_same_landscape(self) -> None:
        net = self.network()
        way = filter_normalised(net, random_direction(net, seed=0))
        assert torch.allclose(way["0.weight"].flatten(1).norm(dim=1), net[0].weight.flatten(1).norm(dim=1))
        assert not way["0.bias"].any()
        assert not way["1.weight"].any()

    def test_a_direction_of_another_network_is_refused(self) -> None:
        with pytest.raises(UserError, match="name by name"):
            filter_normalised(self.network(), {"weight": torch.zeros(2)})


class TestEquivariance:
    def test_a_convolution_that_wraps_round_has_none_and_position_codes_bring_some(self) -> None:
        torch.manual_seed(0)
        wrapping = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular").double()
        x = torch.randn(5, 4, 6, 6, dtype=torch.float64)
        assert equivariance(wrapping, x, filling="cyclic").relative < 1e-25
        codes = torch.randn(1, 4, 6, 6, dtype=torch.float64)
        strengths = [equivariance(lambda t, s=s: wrapping(t + s * codes), x, filling="cyclic").sum for s in (0.1, 1.0)]
        assert 0 < strengths[0] < strengths[1]

    def test_tokens_that_make_no_square_are_refused(self) -> None:
        with pytest.raises(UserError, match="make a square"):
            equivariance(lambda t: t, torch.zeros(2, 11, 3), num_prefix=1)
        with pytest.raises(UserError, match="smaller than the map"):
            equivariance(lambda t: t, torch.zeros(2, 3, 4, 4), shifts=[(4, 0)])
