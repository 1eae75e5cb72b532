"""Levels of two pyramids of other strides: which ones the refusal proposes."""

from __future__ import annotations

import pytest

from helpers.examples_features import Shape, method_of, stages
from understudy.training.levels import refuse_levels_apart
from understudy.utils.errors import UserError


def test_levels_of_a_network_with_a_size_of_its_own_are_proposed_by_their_number_of_positions() -> None:
    ours: list[Shape] = [(4, 20, 20), (4, 10, 10), (4, 5, 5), (4, 3, 3), (4, 2, 2), (4, 1, 1)]
    theirs: list[Shape] = [(4, 32, 48), (4, 16, 24), (4, 8, 12), (4, 4, 6), (4, 2, 3)]
    with pytest.raises(
        UserError, match=r"student_stages=\[0, 1, 2, 3\] method.teacher_stages=\[1, 2, 3, 4\] \(of a row"
    ):
        refuse_levels_apart(method_of("fgfi", stages(student=ours, teacher=theirs)))


def test_without_any_like_levels_another_teacher_is_proposed() -> None:
    ours: list[Shape] = [(4, 2, 2), (4, 1, 1)]
    theirs: list[Shape] = [(4, 16, 16), (4, 8, 8)]
    with pytest.raises(UserError, match="levels of other strides; take another teacher"):
        refuse_levels_apart(method_of("fgfi", stages(student=ours, teacher=theirs)))
