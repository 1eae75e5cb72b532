"""Fidelity, embeddings in a plane and DOT's toy experiment against closed forms and other routes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from understudy.analysis import fidelity, principal_components, toy, toy_optimum, tsne
from understudy.optim import DOT
from understudy.utils.errors import UserError

torch.set_num_threads(1)


class TestFidelity:
    def test_where_the_teacher_is_wrong_by_hand(self) -> None:
        teacher = torch.eye(3)[[0, 1, 2, 2, 2]] * 5  # right, right, wrong three times
        student = torch.eye(3)[[0, 2, 2, 2, 1]] * 5
        found = fidelity(student, teacher, torch.tensor([0, 1, 1, 1, 1]))
        assert (found.agreement, found.num_wrong) == (60, 3)
        assert (found.agreement_where_wrong, found.right_where_wrong) == pytest.approx((200 / 3, 100 / 3))

    def test_the_divergence_is_torchs(self) -> None:
        student, teacher = (torch.randn(30, 5, generator=torch.Generator().manual_seed(s)).double() for s in (0, 1))
        expected = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean")
        assert fidelity(student, teacher, torch.zeros(30)).kl == pytest.approx(float(expected))

    def test_a_teacher_that_is_never_wrong_leaves_nothing_to_tell(self) -> None:
        logits = torch.eye(3) * 5
        found = fidelity(logits, logits, torch.arange(3))
        assert (found.agreement, found.kl, found.correlation_gap) == (100, 0, 0)
        assert np.isnan([found.agreement_where_wrong, found.right_where_wrong, found.kl_where_wrong]).all()

    def test_other_images_are_refused(self) -> None:
        with pytest.raises(UserError, match="fidelity needs"):
            fidelity(torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(3))


class TestEmbeddings:
    def test_principal_components_are_scikit_learns(self) -> None:
        sklearn = pytest.importorskip("sklearn.decomposition")
        rows = np.random.default_rng(0).normal(size=(50, 6)) * np.arange(1, 7)
        places, shares = principal_components(rows)
        theirs = sklearn.PCA(2).fit(rows)
        assert np.allclose(np.abs(places), np.abs(theirs.transform(rows)))
        assert np.allclose(shares, 100 * theirs.explained_variance_ratio_)

    def test_one_dimension_lies_on_a_line(self) -> None:
        places, shares = principal_components(np.arange(5.0)[:, None])
        assert (places[:, 1] == 0).all()
        assert shares.tolist() == [100, 0]

    def test_neighbours_stay_together(self) -> None:
        pytest.importorskip("sklearn.manifold")
        groups = np.repeat([[0.0] * 4, [50.0] * 4], 12, axis=0) + np.random.default_rng(0).normal(size=(24, 4))
        places = tsne(groups, perplexity=5)
        centres = places[:12].mean(axis=0), places[12:].mean(axis=0)
        inside = np.linalg.norm(places[:12] - centres[0], axis=1).max()
        assert np.linalg.norm(centres[0] - centres[1]) > inside

    def test_two_images_are_too_few(self) -> None:
        with pytest.raises(UserError, match="3 images or more"):
            principal_components(np.zeros((2, 4)))


class TestToy:
    @pytest.mark.parametrize("delta", [0.0, 0.075, -0.05])
    def test_it_comes_to_rest_where_each_loss_weighs_one_over_one_less_its_momentum(self, delta: float) -> None:
        assert toy(delta=delta, steps=3000).probabilities[-1] == pytest.approx(toy_optimum(delta=delta), abs=1e-6)

    def test_dot_ends_nearer_to_the_teacher_and_goes_further_on_its_way(self) -> None:
        plain, dot = (toy(delta=delta) for delta in (0.0, 0.075))
        assert abs(dot.probabilities[-1] - 0.7) < 0.05 < abs(plain.probabilities[-1] - 0.7)
        assert np.ptp(dot.probabilities[20:]) > np.ptp(plain.probabilities[20:])
        assert dot.distill_loss[-1] < plain.distill_loss[-1]

    def test_its_steps_are_those_of_the_optimizer(self) -> None:
        logits = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        optimizer = DOT([logits], lr=0.1, momentum=0.9, delta=0.075)
        soft = torch.tensor([0.3, 0.7], dtype=torch.float64)
        for _ in range(20):
            log_p = logits.log_softmax(0)
            optimizer.backward(task=-0.5 * log_p[1], distill=0.5 * F.kl_div(log_p, soft, reduction="sum"))
            optimizer.step()
        assert toy(delta=0.075, steps=20).probabilities[-1] == pytest.approx(float(logits.softmax(0)[1]))

    def test_momenta_of_one_or_more_are_refused(self) -> None:
        with pytest.raises(UserError, match="1 or more"):
            toy(delta=0.1)
