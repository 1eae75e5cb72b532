from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from helpers.examples import Array, few, normal, seeds
from helpers.examples_embeddings import (
    STUDENT,
    TEACHER,
    built,
    check_gradients,
    check_half_autocast,
    check_order,
    deep_context,
    deep_pairing,
)
from helpers.examples_features import batch_of, method_of, stages
from understudy.core.taps import Taps, TapShape
from understudy.methods.reviewkd import AttentionFusion, ReviewKD, reviewkd_loss
from understudy.utils.errors import UserError

SIDES = st.sampled_from([1, 2, 4, 8])


def averaged(maps: Array, side: int) -> Array:
    """For sides that divide the map's."""
    n, d, h, w = maps.shape
    cells: Array = maps.reshape(n, d, side, h // side, side, w // side)
    return cells.mean(axis=(3, 5))


def level_by_the_paper(student: Array, teacher: Array) -> float:
    weights, distances = [1.0], [((student - teacher) ** 2).mean()]
    for side in [side for side in (4, 2, 1) if side < student.shape[2]]:
        weights.append(weights[-1] / 2)
        distances.append(((averaged(student, side) - averaged(teacher, side)) ** 2).mean())
    return float(np.dot(weights, distances) / sum(weights))


@few
@given(seeds, st.lists(SIDES, min_size=1, max_size=4))
def test_hcl_equals_the_weighted_pyramid_of_the_paper(seed: int, sides: list[int]) -> None:
    student = [normal(3, 2 + i, side, side, seed=seed + i) for i, side in enumerate(sides)]
    teacher = [normal(3, 2 + i, side, side, seed=seed + 7 + i) for i, side in enumerate(sides)]
    expected = sum(level_by_the_paper(s.numpy(), t.numpy()) for s, t in zip(student, teacher, strict=True))
    assert reviewkd_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert reviewkd_loss(student, student) == 0


def test_maps_need_not_be_square() -> None:
    student, teacher = normal(2, 3, 2, 6), normal(2, 3, 2, 6, seed=1)
    gap = student - teacher
    expected = (gap.square().mean() + gap.mean(dim=(2, 3)).square().mean() / 2) / 1.5
    torch.testing.assert_close(reviewkd_loss([student], [teacher]), expected)


def test_levels_of_unlike_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(2, 3, 4, 4\).*\(2, 3, 2, 2\)"):
        reviewkd_loss([normal(2, 3, 4, 4)], [normal(2, 3, 2, 2)])


def test_fusion_is_an_attended_sum_of_the_map_and_what_came_up() -> None:
    torch.manual_seed(0)
    fusion = AttentionFusion(3, 4, 5, fuses=True).double()
    maps, residual = normal(6, 3, 4, 4), normal(6, 4, 2, 2, seed=1)

    output, passed_on = fusion(maps, residual, (8, 8))

    inner = fusion.conv1(maps).detach().numpy()
    above = residual.numpy().repeat(2, axis=2).repeat(2, axis=3)  # nearest
    assert fusion.att_conv is not None
    weight, bias = (parameter.detach().numpy() for parameter in fusion.att_conv.parameters())
    scores = np.einsum("od,mdhw->mohw", weight[:, :, 0, 0], np.concatenate([inner, above], axis=1))
    attention = 1 / (1 + np.exp(-scores - bias[:, None, None]))
    expected = (inner * attention[:, :1] + above * attention[:, 1:]).repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_allclose(passed_on.detach().numpy(), expected, rtol=1e-10)
    assert output.shape == (6, 5, 8, 8)
    torch.testing.assert_close(output.mean(dim=(0, 2, 3)), torch.zeros(5, dtype=torch.float64))  # batch-normalised


def test_every_stage_but_the_stem_is_reviewed_and_the_embedding_is_the_deepest_level() -> None:
    context = deep_context()
    method = built(ReviewKD, context)
    levels = [("embedding", "embedding"), *((f"stages.{i}", f"stages.{i}") for i in (3, 2, 1))]
    assert method.levels == levels
    assert method.fusions[0].att_conv is None
    check_gradients(method, deep_pairing(context), "embedding", "stages.1", "stages.2", "stages.3")


def test_deep_features_reach_the_shallow_level() -> None:
    context = deep_context()
    method, pairing = built(ReviewKD, context), deep_pairing(context)
    maps, residual = [], None
    for fusion, (ours, _), size in zip(method.fusions, method.levels, [(1, 1), (3, 3), (5, 5), (8, 8)], strict=True):
        feature = pairing.student_features[ours]
        output, residual = fusion(feature if feature.ndim == 4 else feature[:, :, None, None], residual, size)
        maps.append(output)
    maps[-1].sum().backward()
    assert pairing.student_features["embedding"].grad is not None


def test_the_authors_choice_of_preactivations_can_be_named() -> None:
    stages = [f"preact_stages.{i}" for i in (1, 2, 3)]
    method = built(ReviewKD, deep_context(), student_stages=[1, 2, 3], teacher_stages=stages)
    assert ReviewKD.taps_for(method.config) == Taps(student=("stages", "embedding"), teacher=(*stages, "embedding"))
    assert [teacher for _, teacher in method.levels] == ["embedding", *reversed(stages)]


def test_the_pyramid_of_a_wide_map_is_that_of_its_height() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, 3, 3, 1, generator=generator) for _ in range(2))
    gaps = [(ours - theirs).square().mean()]
    gaps += [F.adaptive_avg_pool2d(ours - theirs, side).square().mean() for side in (2, 1)]  # 2 is wider than the map
    expected = (gaps[0] + gaps[1] / 2 + gaps[2] / 4) / 1.75
    torch.testing.assert_close(reviewkd_loss([ours], [theirs]), expected)


@pytest.mark.parametrize(
    ("preact", "ours", "theirs"),
    [("none", "stages", "stages"), ("teacher", "stages", "preact_stages"), ("both", "preact_stages", "preact_stages")],
)
def test_preact_says_which_side_is_looked_at_before_its_activations(preact: str, ours: str, theirs: str) -> None:
    method = built(ReviewKD, deep_context(), preact=preact)
    assert ReviewKD.taps_for(method.config) == Taps(student=(ours, "embedding"), teacher=(theirs, "embedding"))
    assert method.levels[1:] == [(f"{ours}.{i}", f"{theirs}.{i}") for i in (3, 2, 1)]


def test_numbered_stages_are_those_of_the_side_that_preact_names() -> None:
    method = built(ReviewKD, deep_context(), preact="teacher", student_stages=[-1], teacher_stages=[2])
    assert method.levels[1:] == [("stages.3", "preact_stages.2")]


@pytest.mark.parametrize(("most", "mid"), [(512, 6), (2, 2)])
def test_fusion_is_as_wide_as_the_students_embedding_at_most(most: int, mid: int) -> None:
    method = built(ReviewKD, deep_context(), max_mid_channels=most)
    assert {fusion.conv1[0].out_channels for fusion in method.fusions} == {mid}


def test_vit_blocks_of_one_size_teach_a_pyramid_and_learn_from_it() -> None:
    blocks = tuple(TapShape(6, 4, 4) for _ in range(12))
    for student, teacher in ((STUDENT, blocks), (blocks, TEACHER)):
        context = deep_context(student, teacher)
        assert built(ReviewKD, context)(deep_pairing(context))["hcl"].isfinite()


def test_a_last_stage_of_one_position_arrives_as_a_vector_and_is_taken_as_a_map() -> None:
    context = deep_context((*STUDENT[:3], TapShape(6)), (*TEACHER[:3], TapShape(8)))
    assert built(ReviewKD, context)(deep_pairing(context))["hcl"].isfinite()


@few
@given(seeds)
def test_order_of_the_batch_leaves_reviewkd_unchanged(seed: int) -> None:
    context = deep_context()
    check_order(built(ReviewKD, context), deep_pairing(context, seed=seed), seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_features_in_half_types_stay_finite(dtype: torch.dtype) -> None:
    context = deep_context()
    check_half_autocast(built(ReviewKD, context), deep_pairing(context), dtype)


def test_without_embeddings_all_stages_are_reviewed_from_the_deepest_up() -> None:
    method, batch = method_of("reviewkd", embedding=False, max_mid_channels=6), batch_of(stages())
    assert method.levels == [(f"stages.{i}", f"stages.{i}") for i in (3, 2, 1, 0)]
    assert [fusion.att_conv is None for fusion in method.fusions] == [True, False, False, False]
    assert [len(fusion.conv1[0].weight) for fusion in method.fusions] == [6] * 4
    assert method.taps_for(method.config) == Taps(("stages",), ("stages",))
    loss = method(batch)["hcl"]
    loss.backward()
    assert all(batch.student_features[f"stages.{i}"].grad is not None for i in range(4))
