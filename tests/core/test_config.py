"""Settings: what is refused, and how that is said."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
from pydantic import Field, field_validator, model_validator

from understudy.core.config import Config
from understudy.utils.errors import UserError, nearest, unknown_name


class Wheel(Config):
    spokes: int = 32

    @field_validator("spokes")
    @classmethod
    def _hold(cls, value: int) -> int:
        if value < 3:
            raise ValueError(f"{value} do not hold a rim; take 3 or more")
        return value


class Bicycle(Config):
    name: str
    front: Wheel = Wheel()
    weight: float = 10.0
    basket: Any = None

    @field_validator("basket", mode="before")
    @classmethod
    def _basket(cls, value: Any) -> Any:
        return Wheel.nested(value) if isinstance(value, dict) else value


def problems(data: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        Bicycle.read(data, what="bicycle red")
    return str(caught.value)


def test_all_problems_come_in_one_aligned_message_with_their_key_paths() -> None:
    assert problems({"nmae": "red", "front": {"spokes": 2}, "weight": "heavy"}) == (
        "bicycle red, 4 problems\n"
        "  name           is missing\n"
        "  front.spokes   2 do not hold a rim; take 3 or more\n"
        "  weight         input should be a number, got 'heavy'\n"
        "  nmae           unknown; did you mean name?"
    )


def test_one_problem_is_counted_as_one() -> None:
    assert problems({}) == "bicycle red, 1 problem\n  name   is missing"


class Wrong(Config):
    whole: int | None = None
    flag: bool = False
    words: dict[str, int] = Field(default_factory=dict)
    several: tuple[float, ...] = ()
    few: tuple[int, ...] = Field(default=(1,), min_length=1)
    either: Literal["auto"] | tuple[float, float] = "auto"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"whole": 1.5}, "whole   input should be a whole number, got 1.5"),
        ({"flag": "abc"}, "flag   input should be true or false, got 'abc'"),
        ({"words": 3}, "words   input should be a mapping, as in {KEY: VALUE}, got 3"),
        ({"several": 3}, "several   input should be a list, as in [1, 2], got 3"),
        ({"few": []}, "few   needs at least 1 of them, got []"),
        ({"either": 3}, "either   input should be 'auto' or a list, as in [1, 2], got 3"),
    ],
)
def test_wrong_types_are_named_in_the_words_of_a_recipe(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        Wrong.read(settings, what="these")
    assert str(caught.value) == f"these, 1 problem\n  {said}"


def test_unknown_key_of_a_group_is_compared_with_that_groups_keys() -> None:
    assert "front.spoks   unknown; did you mean spokes?" in problems({"name": "red", "front": {"spoks": 3}})


def test_a_group_of_settings_given_as_a_word_names_its_settings() -> None:
    assert "front   is a group of settings (front.spokes), got 'large'" in problems({"name": "red", "front": "large"})


def test_a_problem_of_the_whole_stands_without_a_key() -> None:
    class Tandem(Config):
        seats: int = 2
        riders: int = 2

        @model_validator(mode="after")
        def _seats_all(self) -> Tandem:
            if self.riders > self.seats:
                raise ValueError("more riders than seats")
            return self

    with pytest.raises(UserError, match=r"^tandem, 1 problem\n  more riders than seats$"):
        Tandem.read({"riders": 3}, what="tandem")


def test_unknown_key_that_resembles_nothing_gets_the_list() -> None:
    assert "zzz   unknown; there are: basket, front, name, weight" in problems({"name": "red", "zzz": 1})


def test_settings_that_a_validator_reads_keep_their_key_path() -> None:
    assert "basket.spokes   2 do not hold a rim" in problems({"name": "red", "basket": {"spokes": 2}})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    assert "weight   input should be a finite number" in problems({"name": "red", "weight": value})


def test_settings_cannot_be_changed_afterwards() -> None:
    bicycle = Bicycle(name="red")
    with pytest.raises(ValueError, match="frozen"):
        bicycle.name = "blue"  # type: ignore[misc]


def test_problems_of_code_that_is_no_setting_are_not_swallowed() -> None:
    class Broken(Config):
        size: int

        @field_validator("size")
        @classmethod
        def _fails(cls, value: int) -> int:
            return value // 0

    with pytest.raises(ZeroDivisionError):
        Broken.read({"size": 1}, what="broken")


@pytest.mark.parametrize(("name", "found"), [("temprature", "temperature"), ("tau", None), ("", None)])
def test_the_nearest_name_is_one_that_resembles(name: str, found: str | None) -> None:
    assert nearest(name, ["temperature", "weight"]) == found


def test_an_unknown_name_gets_a_guess_or_the_sorted_list() -> None:
    assert unknown_name("kdd", ["kd", "dist"]) == "unknown; did you mean kd?"
    assert unknown_name("xyz", ["kd", "dist"]) == "unknown; there are: dist, kd"
