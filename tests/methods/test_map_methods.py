"""Methods for the maps of dense tasks: CWD, CIRKD, DSD."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers.examples import normal
from helpers.examples_features import batch_of, method_of, stages
from understudy.methods.losses.dense import cwd_loss
from understudy.methods.losses.segmentation import cirkd_minibatch_loss, class_similarity_loss, residual_attention_loss
from understudy.utils.errors import UserError

LAST = {"student_stages": ["stages.3"], "teacher_stages": ["stages.3"]}


def test_cwd_compares_the_last_maps_after_a_convolution_to_the_teachers_channels() -> None:
    method, batch = method_of("cwd"), batch_of(stages())
    adapted = method.adapters[0](batch.student_features["stages.3"])
    torch.testing.assert_close(method(batch)["cwd"], cwd_loss(adapted, batch.teacher_features["stages.3"]))


def test_cwd_has_no_convolution_where_channels_agree() -> None:
    context = stages(teacher=[(6, 8, 8), (8, 8, 8), (10, 4, 4), (8, 2, 2)])
    assert list(method_of("cwd", context).parameters()) == []
    assert list(method_of("cwd").parameters()) != []


def test_cirkd_compares_the_last_maps_at_the_smaller_size() -> None:
    context = stages(teacher=[(6, 8, 8), (8, 8, 8), (10, 4, 4), (12, 4, 4)])
    batch = batch_of(context)
    smaller = F.avg_pool2d(batch.teacher_features["stages.3"], 2)
    expected = cirkd_minibatch_loss(batch.student_features["stages.3"], smaller, temperature=0.2)
    torch.testing.assert_close(method_of("cirkd", context, temperature=0.2)(batch)["minibatch"], expected)


def test_dsd_compares_attention_at_the_smallest_size_and_the_classes_of_the_last_maps() -> None:
    context = stages(teacher=[(6, 8, 8), (8, 8, 8), (10, 4, 4), (8, 2, 2)])
    method, batch = method_of("dsd", context, residual_weight=2, class_weight=3), batch_of(context)
    sides = batch.student_features, batch.teacher_features
    ours, theirs = ([F.adaptive_avg_pool2d(side[f"stages.{i}"], 2) for i in (1, 2, 3)] for side in sides)
    terms = method(batch)
    torch.testing.assert_close(terms["psd"], 2 * residual_attention_loss(ours, theirs))
    torch.testing.assert_close(terms["csd"], 3 * class_similarity_loss(ours[-1], theirs[-1]))


def test_dsd_wants_several_maps_and_the_same_classes() -> None:
    with pytest.raises(UserError, match="name two or more places"):
        method_of("dsd", **LAST)
    with pytest.raises(UserError, match=r"8x2x2 and the teacher's stages\.3 12x2x2.*class_weight=0"):
        method_of("dsd")
    assert set(method_of("dsd", class_weight=0)(batch_of(stages()))) == {"psd"}


@pytest.mark.parametrize("method", ["cwd", "cirkd", "dsd"])
def test_a_single_position_is_no_map(method: str) -> None:
    flat = stages([(4, 1, 1), (4, 1, 1), (4, 1, 1)], [(4, 1, 1), (4, 1, 1), (4, 1, 1)])
    with pytest.raises(UserError, match="have a single one in common"):
        method_of(method, flat)


@pytest.mark.parametrize("method", ["cwd", "cirkd", "dsd"])
def test_a_student_with_its_teachers_maps_has_nothing_left_to_learn(method: str) -> None:
    shapes = [(4, 8, 8), (4, 8, 8), (6, 4, 4), (8, 2, 2)]
    context = stages(shapes, shapes)
    batch = batch_of(context)
    same = {
        name: normal(*maps.shape, seed=number) for number, (name, maps) in enumerate(batch.student_features.items())
    }
    terms = method_of(method, context)(replace(batch, student_features=same, teacher_features=same))
    assert sum(term.item() for term in terms.values()) == pytest.approx(0, abs=1e-12)
