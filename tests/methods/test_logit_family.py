"""What holds for every loss and method of the family on logits beyond KD, DKD and DIST."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.examples import context, normal, pairing, random_labels
from helpers.logit_losses import RIVALS as LOSSES
from understudy.methods.base import Method
from understudy.methods.dist_kl import DISTKL
from understudy.methods.dist_rank import DISTRank
from understudy.methods.logit_std import LogitStandardisation
from understudy.methods.nkd import NKD
from understudy.methods.pad import PAD
from understudy.methods.rld import RLD
from understudy.methods.skd_streamlined import StreamlinedKD
from understudy.methods.spherical import Spherical
from understudy.methods.tfkd import TeacherFreeKD
from understudy.methods.ttm import TTM
from understudy.methods.wttm import WTTM
from understudy.utils.errors import UserError

TEACHER_FREE = ("uskd", "uskd_paper", "tfkd", "tfkd_smoothing")
LABELLED = ("nkd", "nkd_t1", "uskd", "uskd_paper", "tfkd")
LEAVE_OUT = (*LABELLED, "rld", "rld_standardised")  # rows without a label

every_method = pytest.mark.parametrize(
    "method", [NKD, Spherical, LogitStandardisation, TeacherFreeKD, PAD, DISTKL, DISTRank]
)


@pytest.mark.parametrize("name", LEAVE_OUT)
def test_unlabelled_rows_count_neither_in_the_sum_nor_in_the_mean(name: str) -> None:
    student, teacher = (normal(6, 5, seed=seed, scale=1.0) for seed in (0, 1))
    labels = torch.tensor([3, -1, 0, 4, -1, 2])
    is_labelled = labels >= 0
    expected = LOSSES[name](student[is_labelled], teacher[is_labelled], labels[is_labelled])
    torch.testing.assert_close(LOSSES[name](student, teacher, labels), expected)


@pytest.mark.parametrize("name", LEAVE_OUT)
def test_a_batch_without_labels_gives_zero_loss_and_zero_gradient(name: str) -> None:
    student = normal(3, 5).requires_grad_()
    loss = LOSSES[name](student, normal(3, 5, seed=1), torch.full((3,), -1))
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("name", ["nkd", "nkd_t1", "tfkd"])
def test_mixed_labels_that_name_one_class_equal_hard_ones(name: str) -> None:
    student, teacher, labels = normal(6, 5), normal(6, 5, seed=1), random_labels(6, 5)
    shares = torch.nn.functional.one_hot(labels, 5).double()
    torch.testing.assert_close(LOSSES[name](student, teacher, shares), LOSSES[name](student, teacher, labels))


@pytest.mark.parametrize("name", LABELLED)
def test_labels_of_another_shape_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"\(M,\) or \(M, C\).*\(4, 3\).*\(4, 5\)"):
        LOSSES[name](normal(4, 5), normal(4, 5), torch.zeros(4, 3))


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in TEACHER_FREE])
def test_teachers_with_other_classes_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"\(4, 5\).*\(4, 1\)"):
        LOSSES[name](normal(4, 5), normal(4, 1), random_labels(4, 5))


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in TEACHER_FREE])
def test_no_gradient_flows_into_the_teacher(name: str) -> None:
    student, teacher = normal(4, 5).requires_grad_(), normal(4, 5, seed=1).requires_grad_()
    LOSSES[name](student, teacher, random_labels(4, 5)).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.any()


@every_method
def test_gradients_reach_student_and_connectors_and_never_the_teacher(method: type[Method]) -> None:
    built, batch = method(method.Config(), context()), pairing()

    sum(built(batch).values(), torch.zeros(())).backward()

    assert bool(list(built.parameters())) == (method is PAD)
    assert all(weight.grad is not None and weight.grad.any() for weight in built.parameters())
    looked_at = [batch.student_features[name] for name in built.taps_for(built.config).student]
    for tensor in looked_at or [batch.student_logits]:
        assert tensor.grad is not None
        assert tensor.grad.any()
    assert batch.teacher_logits is not None
    assert batch.teacher_logits.grad is None
    assert all(feature.grad is None for feature in batch.teacher_features.values())


@every_method
def test_defaults_say_where_they_come_from(method: type[Method]) -> None:
    assert method.default_loss.source
    assert method.paper is not None
    assert method.paper.arxiv


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        (NKD, "independent"),
        (Spherical, "independent"),
        (LogitStandardisation, "independent"),
        (TeacherFreeKD, "independent"),
        (TTM, "independent"),
        (WTTM, "independent"),
        (RLD, "independent"),
        (StreamlinedKD, "related"),
        (PAD, "related"),
        (DISTKL, "related"),
        (DISTRank, "related"),
    ],
)
def test_half_a_batch_twice_equals_the_whole_only_where_rows_are_independent(method: type[Method], rows: str) -> None:
    built, batch = method(method.Config(), context()).double(), pairing(8)

    def loss(part: slice) -> Tensor:
        fields = {name: getattr(batch, name)[part] for name in ("student_logits", "teacher_logits", "labels")}
        features = {
            f"{side}_features": {"embedding": getattr(batch, f"{side}_features")["embedding"][part].double()}
            for side in ("student", "teacher")
        }
        terms: dict[str, Tensor] = built(type(batch)(**fields, **features))
        return torch.stack([term.double() for term in terms.values()]).sum()

    halves, whole = (loss(slice(0, 4)) + loss(slice(4, 8))) / 2, loss(slice(0, 8))
    assert method.rows == rows
    assert torch.isclose(halves, whole, rtol=1e-5).item() == (rows == "independent")
