"""Counts, sizes, times and lists as people read them."""

from __future__ import annotations

import pytest

from understudy.utils.text import bytes_in_words, clock, listed, mib, plural, two_digits


def test_one_is_one_and_none_or_several_are_many() -> None:
    assert [plural(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [plural(number, "class", "classes") for number in (1, 3)] == ["1 class", "3 classes"]


def test_a_list_that_is_cut_says_so() -> None:
    assert [listed("abc", most) for most in (2, 3)] == ["a, b, ...", "a, b, c"]


def test_sizes_of_files_are_in_powers_of_1000_and_of_memory_in_mebibytes() -> None:
    assert [bytes_in_words(10**power) for power in (2, 4, 7, 9, 13)] == [
        "100 bytes",
        "10 kB",
        "10 MB",
        "1 GB",
        "10.0 TB",
    ]
    assert (mib(3 * 2**29), mib(3 * 2**19, digits=1)) == ("1,536 MiB", "1.5 MiB")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (21.9, "0:00:21"), (3_725, "1:02:05"), (90_000, "25:00:00")]
)
def test_durations_are_hours_minutes_seconds(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(2_620.0, "2,600"), (17.46, "17"), (9.96, "10"), (0.2345, "0.23"), (614.0, "610"), (1.0, "1.0"), (0.0, "0")],
)
def test_a_measurement_has_two_digits(value: float, text: str) -> None:
    assert two_digits(value) == text
