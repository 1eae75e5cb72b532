from __future__ import annotations

import pytest
import torch
from hypothesis import given
from torch import nn

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_embeddings import (
    STUDENT,
    built,
    check_gradients,
    check_half_autocast,
    check_order,
    deep_context,
    deep_pairing,
    side,
)
from understudy.core.taps import Taps, TapShape
from understudy.methods.base import Context, TapShapes
from understudy.methods.srrl import SRRL, srrl_loss
from understudy.utils.errors import UserError


@few
@given(seeds, row_counts)
def test_srrl_equals_the_two_squared_distances_of_the_paper(seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 4, seed=seed), normal(num_rows, 4, seed=seed + 1)
    weight, bias = normal(7, 4, seed=seed + 2), normal(7, seed=seed + 3)
    s, t, w, b = (tensor.numpy() for tensor in (student, teacher, weight, bias))
    expected = ((s - t) ** 2).mean() + 0.3 * (((s @ w.T + b) - (t @ w.T + b)) ** 2).mean()
    found = srrl_loss(student, teacher, weight, bias, regression_weight=0.3)
    assert found.item() == pytest.approx(expected, rel=1e-10)
    assert srrl_loss(teacher, teacher, weight, bias) == 0


def test_regression_is_blind_to_what_the_classifier_does_not_see() -> None:
    teacher, weight = normal(5, 4), torch.eye(3, 4, dtype=torch.float64)
    unseen = torch.tensor([0.0, 0.0, 0.0, 2.0])
    torch.testing.assert_close(
        srrl_loss(teacher + unseen, teacher, weight, None, regression_weight=9.0),
        torch.tensor(1.0, dtype=torch.float64),  # the matching term alone: 2^2 in one of four columns
    )


def test_the_classifier_is_a_constant_of_the_loss() -> None:
    weight = normal(3, 4).requires_grad_()
    srrl_loss(normal(5, 4).requires_grad_(), normal(5, 4, seed=1), weight, None).backward()
    assert weight.grad is None


def test_features_of_unlike_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(4, 6\).*\(4, 8\)"):
        srrl_loss(normal(4, 6), normal(4, 8), normal(3, 8), None)


@pytest.mark.parametrize(("connect", "tap"), [("map", "stages.3"), ("embedding", "embedding")])
def test_gradients_reach_the_connector_but_neither_teacher_nor_its_classifier(connect: str, tap: str) -> None:
    context = deep_context()
    check_gradients(built(SRRL, context, connect=connect), deep_pairing(context), tap)


def test_the_connector_of_the_authors_acts_before_pooling_the_other_after() -> None:
    context = deep_context()
    pairing = deep_pairing(context)
    before, after = (built(SRRL, context, connect=connect) for connect in ("map", "embedding"))
    teacher = pairing.teacher_features["embedding"]
    for method, projected in (
        (before, before.connector(pairing.student_features["stages.3"]).mean(dim=(2, 3))),
        (after, after.connector(pairing.student_features["embedding"][:, :, None, None]).flatten(1)),
    ):
        torch.testing.assert_close(method(pairing)["matching"], ((projected - teacher) ** 2).mean())
    assert SRRL.taps_for(after.config) == Taps(student=("embedding",), teacher=("embedding",))


def test_terms_carry_their_weights() -> None:
    context = deep_context()
    pairing = deep_pairing(context)
    plain, weighted = (built(SRRL, context, regression_weight=weight)(pairing) for weight in (1.0, 3.0))
    torch.testing.assert_close(weighted["regression"], 3 * plain["regression"])
    torch.testing.assert_close(weighted["matching"], plain["matching"])


def test_without_its_relu_the_connector_reaches_negative_embeddings() -> None:
    context = deep_context()
    maps = deep_pairing(context).student_features["stages.3"]
    bent, free = (built(SRRL, context, ends_in_relu=ends).connector(maps) for ends in (True, False))
    torch.testing.assert_close(bent, free.relu())
    assert (free < 0).any()


def test_class_counts_may_differ() -> None:
    context = deep_context(teacher_classes=11)
    assert built(SRRL, context)(deep_pairing(context))["regression"] > 0


def test_a_teacher_without_an_affine_last_layer_is_refused() -> None:
    shapes = {"embedding": TapShape(8)}
    for classifier, found in ((None, "it has none"), (nn.Conv2d(8, 5, 3), "is a Conv2d")):
        teacher = TapShapes(shapes, num_classes=5, classifier=classifier)
        with pytest.raises(UserError, match=rf"'srrl'.*{found}.*'projector'"):
            SRRL(SRRL.Config(), Context(student=side(STUDENT), teacher=teacher, num_classes=5))


@few
@given(seeds)
def test_order_of_the_batch_leaves_srrl_unchanged(seed: int) -> None:
    context = deep_context()
    check_order(built(SRRL, context), deep_pairing(context, seed=seed), seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("connect", ["map", "embedding"])
def test_large_features_in_half_types_stay_finite(dtype: torch.dtype, connect: str) -> None:
    context = deep_context()
    check_half_autocast(built(SRRL, context, connect=connect), deep_pairing(context), dtype)


def test_the_teachers_tap_on_its_own_classifier_is_left_alone() -> None:
    context = deep_context()
    assert context.teacher.classifier is not None
    caught = []
    context.teacher.classifier.register_forward_pre_hook(lambda _, inputs: caught.append(inputs))
    built(SRRL, context)(deep_pairing(context))
    assert caught == []
