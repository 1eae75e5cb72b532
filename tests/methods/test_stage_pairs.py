from __future__ import annotations

from typing import Any

import pytest

from helpers.examples_features import CNN, VIT, WIDER_CNN, Shape, method_of, stages
from understudy.core.taps import Taps
from understudy.methods import METHODS
from understudy.methods.shared.stages import StageMethod, spread
from understudy.utils.errors import UserError

DEEPER_CNN: list[Shape] = [(4, 16, 16), *WIDER_CNN]
LONG_VIT = [*VIT, *VIT]


def compared(name: str = "at", student: list[Shape] = CNN, teacher: list[Shape] = WIDER_CNN, **settings: Any) -> str:
    method = method_of(name, stages(student, teacher), **settings)
    assert isinstance(method, StageMethod)
    return " ".join(f"{pair.student.partition('.')[2]}-{pair.teacher.partition('.')[2]}" for pair in method.pairs)


def test_every_stage_but_the_stem_is_compared() -> None:
    assert compared() == "1-1 2-2 3-3"


def test_the_stem_is_compared_where_the_method_relates_successive_stages() -> None:
    assert compared("fsp") == "0-0 1-1 2-2 3-3"


def test_of_a_deeper_pyramid_the_last_stages_are_compared() -> None:
    assert compared(teacher=DEEPER_CNN) == "1-2 2-3 3-4"
    assert compared(student=DEEPER_CNN, teacher=CNN) == "2-1 3-2 4-3"


def test_of_a_vit_evenly_spread_blocks_are_compared() -> None:
    assert compared(teacher=VIT) == "1-1 2-3 3-5"
    assert compared(student=VIT, teacher=WIDER_CNN) == "1-1 3-2 5-3"


def test_two_vits_are_compared_at_four_places() -> None:
    assert compared(student=VIT, teacher=LONG_VIT) == "1-2 2-5 4-8 5-11"


@pytest.mark.parametrize(("name", "expected"), [("fitnet", "2-2"), ("ickd", "3-3"), ("ft", "3-3")])
def test_methods_of_one_layer_compare_the_middle_or_the_last(name: str, expected: str) -> None:
    assert compared(name, **({"init_from": "a run"} if name == "ft" else {})) == expected


def test_stages_can_be_named_on_one_side_or_both() -> None:
    assert compared(student_stages=[1, 2]) == "1-1 2-2"
    assert compared(student_stages=[3], teacher=VIT) == "3-5"
    assert compared(student_stages=[-2], teacher_stages=["stages.0"]) == "2-0"
    assert compared("fitnet", teacher_stages=[1, 3]) == "1-1 3-3"


def test_only_the_named_modules_are_tapped() -> None:
    config = METHODS["at"].Config.model_validate({"student_stages": ["layer1", "layer2"], "teacher_stages": [2, "x"]})
    assert METHODS["at"].taps_for(config) == Taps(student=("layer1", "layer2"), teacher=("stages", "x"))
    one_sided = METHODS["ab"].Config.model_validate({"student_stages": ["preact_stages.2"]})
    assert METHODS["ab"].taps_for(one_sided) == Taps(("preact_stages", "preact_stages.2"), ("preact_stages",))


@pytest.mark.parametrize("name", ["at", "ab"])
def test_without_settings_all_stages_are_tapped(name: str) -> None:
    assert METHODS[name].taps_for(METHODS[name].Config()) == METHODS[name].taps


def test_spread_ends_with_the_last_and_keeps_all_where_all_are_chosen() -> None:
    names = list("abcdefghijkl")
    assert spread(names, 12) == names
    assert spread(names, 3) == ["d", "h", "l"]
    assert spread(names, 1) == ["l"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student_stages": [1, 2], "teacher_stages": [1]}, "names 2 stages .* and teacher_stages 1"),
        ({"student_stages": [4]}, "student_stages names 4, but the student has 4 stages, numbered from 0"),
        ({"teacher_stages": ["layer9"]}, "teacher_stages names 'layer9'"),
        ({"student_stages": []}, "student_stages is empty"),
        ({"student_stages": [0]}, "student_stages names stages.0, which has no counterpart.*set method.teacher_stages"),
    ],
)
def test_stages_that_cannot_be_paired_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"method 'at'.*{message}"):
        method_of("at", **settings)


def test_a_network_without_stages_is_refused_with_the_cure() -> None:
    with pytest.raises(UserError, match=r"the student offers none; name modules.*method.student_stages"):
        method_of("at", stages(student=[]))


@pytest.mark.parametrize("name", ["at", "nst", "kdsvd"])
def test_maps_of_a_single_position_are_refused_where_positions_are_compared(name: str) -> None:
    flat: list[Shape] = [(4, 8, 8), (6,), (8,)]
    with pytest.raises(UserError, match=f"method '{name}' compares positions.*name earlier stages"):
        method_of(name, stages(student=flat))


def test_a_single_position_is_refused_with_the_setting_that_takes_stages_with_more() -> None:
    shapes: list[Shape] = [(4, 16, 16), (4, 8, 8), (6, 4, 4), (8,)]
    context = stages(student=shapes, teacher=shapes)
    with pytest.raises(UserError, match=r"student_stages=\[2\] takes stages.2 and the teacher's stages.2, .*4 x 4; or"):
        method_of("ifvd", context)
    assert [pair.size for pair in method_of("ifvd", context, student_stages=[2]).pairs] == [(4, 4)]
