"""Numbers as people read them."""

import math

import pytest

from understudy.report import formatting as numbers


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (850, "850"),
        (12_042, "12 k"),
        (12_345, "12.3 k"),
        (272_474, "272 k"),
        (999_600, "1 M"),
        (21_300_000, "21.3 M"),
        (4.1e9, "4.1 G"),
        (None, "–"),
    ],
)
def test_counts_have_three_digits_and_a_unit(count, text):
    assert numbers.compact(count) == text


@pytest.mark.parametrize(
    ("student", "teacher", "text"),
    [
        (12_042, 272_474, "1/23"),
        (100, 400, "1/4"),
        (100, 230, "1/2.3"),
        (80, 100, "80 %"),
        (250, 100, "2.5 times"),
        (None, 100, None),
        (0, 100, None),
    ],
)
def test_sizes_are_told_in_the_teachers(student, teacher, text):
    assert numbers.size_ratio(student, teacher) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.943, "1.94"), (0.0213, "0.021"), (3.14e-5, "3.1e-05"), (0.0, "0.000"), (math.nan, "–")]
)
def test_losses_keep_their_leading_digits(value, text):
    assert numbers.loss(value) == text


def test_a_rounded_zero_has_no_sign():
    assert numbers.decimal(-0.01) == "0.0"


def test_points_share_as_many_digits_as_the_smallest_needs():
    assert numbers.points(2.8, 1.1, 4.4) == ("2.8", "1.1", "4.4")
    assert numbers.points(0.5, -0.02, 1.0) == ("0.50", "-0.02", "1.00")
    assert numbers.points(0.0, 0.0, 0.0) == ("0.0", "0.0", "0.0")


@pytest.mark.parametrize(("seconds", "text"), [(9.2, "9 s"), (72, "1 min 12 s"), (11_100, "3 h 5 min"), (None, "–")])
def test_durations_have_two_units_at_most(seconds, text):
    assert numbers.duration(seconds) == text
