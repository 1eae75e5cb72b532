from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_features import batch_of, method_of, stages
from understudy.methods.vid import VID, Regressor, vid_loss
from understudy.utils.errors import UserError


@few
@given(seeds, row_counts)
def test_vid_equals_the_formula_of_the_paper(seed: int, num_rows: int) -> None:
    predicted, teacher = normal(num_rows, 3, 4, 4, seed=seed), normal(num_rows, 3, 4, 4, seed=seed + 1)
    alpha = normal(3, seed=seed + 2)
    expected = 0.0
    for d in range(3):
        variance = np.log1p(np.exp(alpha[d].item())) + 1e-3
        gap = (predicted - teacher)[:, d].numpy()
        expected += (gap**2 / variance + np.log(variance)).mean() / 2 / 3
    assert vid_loss(predicted, teacher, alpha, eps=1e-3).item() == pytest.approx(expected, rel=1e-10)


@few
@given(seeds, row_counts)
def test_the_minimum_is_half_the_mean_log_variance(seed: int, num_rows: int) -> None:
    teacher, alpha = normal(num_rows, 3, 4, 4, seed=seed), normal(3, seed=seed + 1)
    least = (torch.nn.functional.softplus(alpha) + 1e-5).log().mean() / 2
    torch.testing.assert_close(vid_loss(teacher, teacher.clone(), alpha), least)
    assert vid_loss(teacher + 0.1, teacher, alpha) > least


def test_the_variance_is_trained() -> None:
    method, batch = method_of("vid"), batch_of(stages())
    connector = method.connectors[0]
    variance = torch.nn.functional.softplus(connector.log_scale) + 1e-5
    torch.testing.assert_close(variance, torch.full((8,), 5.0))
    assert "connectors.0.log_scale" in method.state_dict()

    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    method(batch)["vid"].backward()
    optimizer.step()

    # Features of variance 1 are less uncertain than the 5 that training starts from.
    assert (connector.log_scale < np.log(np.expm1(5.0))).all()


def test_hidden_channels_are_the_teachers_unless_set() -> None:
    def widths(**settings: int) -> list[int]:
        connector = method_of("vid", **settings).connectors[0]
        assert isinstance(connector, Regressor)
        return [layer.out_channels for layer in connector.regressor if isinstance(layer, torch.nn.Conv2d)]

    assert widths() == [8, 8, 8]
    assert widths(hidden_channels=3) == [3, 3, 8]


def test_an_initial_variance_below_the_smallest_is_refused() -> None:
    with pytest.raises(UserError, match=r"method\.eps 1\.0 is the smallest variance"):
        method_of("vid", initial_variance=0.5, eps=1.0)


def test_as_many_scales_as_channels_are_needed() -> None:
    with pytest.raises(UserError, match=r"\(2,\).*each of 3 channels"):
        vid_loss(normal(2, 3, 4, 4), normal(2, 3, 4, 4), normal(2))
    assert VID.default_loss.distill == 1
