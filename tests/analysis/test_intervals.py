"""Means, deviations and the paired bootstrap."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.analysis import Summary, paired_bootstrap, summary
from understudy.utils.errors import UserError


def test_summary_of_three_seeds_has_the_sample_standard_deviation():
    assert summary([1.0, 2.0, 3.0]) == Summary(2.0, 1.0, 3)


def test_summary_of_one_seed_has_no_standard_deviation():
    assert summary([94.2]) == Summary(94.2, None, 1)


def test_summary_with_a_diverged_seed_is_not_a_number():
    found = summary([94.2, math.inf])

    assert math.isnan(found.mean)
    assert found.std is not None
    assert math.isnan(found.std)


def test_summary_of_nothing_is_refused():
    with pytest.raises(UserError, match="at least one value"):
        summary([])


def random_pair(num_seeds=3, num_images=200, lead=0.05, seed=0):
    generator = np.random.default_rng(seed)
    worse = generator.random((num_seeds, num_images)) < 0.8
    return worse | (generator.random((num_seeds, num_images)) < 5 * lead), worse


def test_bootstrap_difference_is_the_difference_of_the_accuracies():
    a, b = random_pair()

    found = paired_bootstrap(a, b)

    assert found.difference == pytest.approx(100 * (a.mean() - b.mean()))
    assert found.low < found.difference < found.high
    assert (found.num_images, found.num_seeds) == (200, 3)


def test_bootstrap_of_a_row_against_itself_is_exactly_zero():
    a, _ = random_pair()

    found = paired_bootstrap(a, a)

    assert (found.low, found.difference, found.high) == (0, 0, 0)
    assert found.spans_zero


def test_bootstrap_gives_the_same_interval_on_every_call_and_another_under_another_seed():
    a, b = random_pair()

    assert paired_bootstrap(a, b) == paired_bootstrap(a, b)
    assert paired_bootstrap(a, b, seed=1).low != paired_bootstrap(a, b).low


def test_bootstrap_takes_tensors_as_well_as_arrays():
    a, b = random_pair()

    assert paired_bootstrap(torch.from_numpy(a), torch.from_numpy(b)) == paired_bootstrap(a, b)


def test_bootstrap_agrees_with_all_resamples_of_a_case_small_enough_to_list():
    a = np.array([[True, True, False], [True, False, True]])
    b = np.array([[False, True, False], [True, True, False]])
    difference = a.astype(int) - b.astype(int)
    every = [
        100 * np.mean(difference[np.ix_(seeds, images)])
        for seeds in itertools.product(range(2), repeat=2)
        for images in itertools.product(range(3), repeat=3)
    ]

    for level in (0.4, 0.7):  # at neither does a quantile fall on the edge of a jump
        found = paired_bootstrap(a, b, level=level, resamples=40_000)
        ends = np.quantile(every, [(1 - level) / 2, (1 + level) / 2])
        assert (found.low, found.high) == pytest.approx(tuple(ends), abs=1e-9)


def test_bootstrap_over_one_seed_has_the_width_of_the_normal_interval_over_images():
    a, b = random_pair(num_seeds=1, num_images=4000)
    difference = (a.astype(float) - b.astype(float))[0]
    half_width = 1.96 * 100 * difference.std() / math.sqrt(4000)

    found = paired_bootstrap(a, b)

    assert found.high - found.low == pytest.approx(2 * half_width, rel=0.05)


def test_bootstrap_is_wider_where_seeds_disagree_though_the_images_are_many():
    steady = np.zeros((2, 5000), dtype=bool)
    steady[:, :500] = True
    restless = np.zeros((2, 5000), dtype=bool)
    restless[0, :1000] = True
    nothing = np.zeros((2, 5000), dtype=bool)

    calm, wide = paired_bootstrap(steady, nothing), paired_bootstrap(restless, nothing)

    assert calm.difference == wide.difference == 10
    assert wide.high - wide.low > 5 * (calm.high - calm.low)


def test_bootstrap_draws_the_same_distribution_when_it_must_work_in_pieces(monkeypatch):
    a, b = random_pair(num_images=2000)
    whole = paired_bootstrap(a, b)

    monkeypatch.setattr("understudy.analysis.intervals._COUNTS_AT_ONCE", 1000)
    pieces = paired_bootstrap(a, b)

    assert (pieces.low, pieces.high) == pytest.approx((whole.low, whole.high), abs=0.15)


@settings(max_examples=30, deadline=None)
@given(
    num_seeds=st.integers(1, 4), num_images=st.integers(1, 30), share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1)
)
def test_swapping_the_rows_turns_the_difference_round_and_intervals_stay_within_a_hundred_points(
    num_seeds, num_images, share, seed
):
    generator = np.random.default_rng(seed)
    a = generator.random((num_seeds, num_images)) < share
    b = generator.random((num_seeds, num_images)) < 0.5

    there, back = paired_bootstrap(a, b, resamples=200), paired_bootstrap(b, a, resamples=200)

    assert there.difference == pytest.approx(-back.difference)
    assert -100 <= there.low <= there.high <= 100


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (3,)), ((0, 3), (0, 3)), ((2, 0), (2, 0))])
def test_bootstrap_refuses_tables_that_do_not_match(shapes):
    a, b = (np.zeros(shape, dtype=bool) for shape in shapes)

    with pytest.raises(UserError, match="same images under the same seeds"):
        paired_bootstrap(a, b)


@pytest.mark.parametrize("settings", [{"level": 1.0}, {"level": 0.0}, {"resamples": 0}])
def test_bootstrap_refuses_a_level_or_a_count_that_makes_no_sense(settings):
    a, b = random_pair(num_images=5)

    with pytest.raises(UserError, match="between 0 and 1"):
        paired_bootstrap(a, b, **settings)


def test_bootstrap_interval_covers_the_true_difference_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        b = generator.random((8, 300)) < 0.85
        a = generator.random((8, 300)) < 0.88
        found = paired_bootstrap(a, b, resamples=400)
        covered += found.low <= 3.0 <= found.high

    assert covered >= 180  # 95 % of 200 are 190; independent seeds and images make it cautious, not bold


def test_an_interval_of_numbers_is_in_their_own_unit():
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.01, (3, 200))
    error = 0.08 + noise

    found = paired_bootstrap(error - 0.02 + generator.normal(0, 0.01, (3, 200)), error)

    assert found.difference == pytest.approx(-0.02, abs=0.002)
    assert found.low < found.difference < found.high < 0


def test_an_interval_of_ones_and_zeros_is_a_hundredth_of_that_of_booleans():
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 60)) < 0.8, generator.random((2, 60)) < 0.7

    shares, numbers = paired_bootstrap(a, b), paired_bootstrap(a.astype(float), b.astype(float))

    assert (shares.low, shares.high) == pytest.approx((100 * numbers.low, 100 * numbers.high))


def test_booleans_beside_numbers_are_numbers() -> None:
    right, scores = np.array([[True, False, True, False]]), np.array([[0.25, 0.25, 0.5, 0.0]])
    found = paired_bootstrap(right, scores)
    assert found == paired_bootstrap(right.astype(float), scores)
    assert found.difference == pytest.approx(0.25)
