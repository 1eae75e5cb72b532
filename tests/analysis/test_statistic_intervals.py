"""Intervals of a difference of scores that are no means over images."""

from __future__ import annotations

import numpy as np
import pytest

from understudy import UserError
from understudy.analysis import paired_bootstrap
from understudy.analysis.statistic_intervals import Resampled, paired_statistic_bootstrap, resampled

RIGHT = np.random.default_rng(1).random((2, 2, 60)) < np.array([0.8, 0.5])[:, None, None]  # row, seed, image


def shares(row: int, resamples: int = 6_000) -> Resampled:
    """Of a mean, of which the interval is known."""
    right = RIGHT[row].astype(np.float64)
    (found,) = resampled(lambda weights: 100 * (weights @ right.T / 60)[..., None], 60, resamples=resamples)
    return found


def test_of_a_mean_it_is_the_interval_of_the_bootstrap_of_means() -> None:
    found, expected = paired_statistic_bootstrap(shares(0), shares(1)), paired_bootstrap(RIGHT[0], RIGHT[1])
    assert found.difference == pytest.approx(expected.difference)
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=2), pytest.approx(expected.high, abs=2))
    assert (found.num_images, found.num_seeds) == (60, 2)


def test_a_row_beside_itself_differs_by_nothing_since_draws_are_alike() -> None:
    found = paired_statistic_bootstrap(shares(0), shares(0))
    assert (found.low, found.difference, found.high) == (0, 0, 0)


def test_rows_of_other_draws_are_refused() -> None:
    with pytest.raises(UserError, match="two rows on the same images"):
        paired_statistic_bootstrap(shares(0), shares(1, resamples=50))


@pytest.mark.parametrize("resamples", [1, 100, 150])
def test_there_are_as_many_resamples_as_were_asked_for(resamples: int) -> None:
    assert shares(0, resamples=resamples).points.shape == (resamples, 2)


def test_seeds_are_not_drawn_by_the_numbers_that_drew_the_images() -> None:
    """Four images and four seeds, the score under a seed is how often the image of its number was drawn."""
    (drawn,) = resampled(lambda weights: weights[..., None].astype(np.float64), 4)
    nothing = Resampled(0 * drawn.once, 0 * drawn.points, 4)
    found = paired_statistic_bootstrap(drawn, nothing)
    assert found.low < 1  # of one and the same draw the mean of squares, which is never below 1
