from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import Tensor, nn

from helpers.examples import built, class_counts, few, normal, random_labels, row_counts, seeds, softmax
from helpers.whole_networks import whole_context, whole_pairing
from understudy.core.cam import class_activations
from understudy.core.taps import TapShape
from understudy.methods.base import Context, TapShapes
from understudy.methods.dkd import dkd_loss
from understudy.methods.kd import kd_loss
from understudy.methods.sdd import SDD, logits_of_regions, sdd_loss
from understudy.utils.errors import UserError


def regions(num_rows: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of five regions on either side, and labels."""
    student, teacher = (normal(num_rows, num_classes, 5, seed=seed + number) for number in (0, 1))
    return student, teacher, random_labels(num_rows, num_classes, seed)


def weights_by_the_rule(teacher: Tensor, labels: Tensor) -> Tensor:
    found = torch.ones(len(labels), teacher.shape[2], dtype=torch.float64)
    for m, label in enumerate(labels.tolist()):
        whole = int(teacher[m, :, 0].argmax()) == label
        for n in range(teacher.shape[2]):
            found[m, n] = 1 if (int(teacher[m, :, n].argmax()) == label) == whole else 2
    return found


@few
@given(seeds, row_counts, class_counts)
def test_sdd_of_kd_equals_the_formula_of_the_paper(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher, labels = regions(num_rows, num_classes, seed)
    weights = weights_by_the_rule(teacher, labels).numpy()
    total = 0.0
    for n in range(5):
        p, q = softmax(teacher[:, :, n], 2.0), softmax(student[:, :, n], 2.0)
        total += 4 * (weights[:, n] * (p * np.log(p / q)).sum(axis=1)).sum()
    found = sdd_loss(student, teacher, labels, base="kd", temperature=2.0)
    assert found.item() == pytest.approx(total / (5 * num_rows), rel=1e-9)


@few
@given(seeds, row_counts, class_counts)
def test_sdd_of_dkd_is_dkd_of_the_regions_with_their_weights(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher, labels = regions(num_rows, num_classes, seed)
    weights, settings = weights_by_the_rule(teacher, labels), {"alpha": 0.7, "beta": 3.0, "temperature": 2.0}
    total = sum(
        weights[m, n] * dkd_loss(student[m : m + 1, :, n], teacher[m : m + 1, :, n], labels[m : m + 1], **settings)
        for m in range(num_rows)
        for n in range(5)
    )
    torch.testing.assert_close(sdd_loss(student, teacher, labels, **settings), total / (5 * num_rows))


def test_one_region_or_equal_verdicts_are_what_they_are_taken_of() -> None:
    student, teacher, labels = regions(6, 5)
    whole = student[:, :, :1], teacher[:, :, :1], labels
    torch.testing.assert_close(sdd_loss(*whole), dkd_loss(student[:, :, 0], teacher[:, :, 0], labels))
    torch.testing.assert_close(sdd_loss(*whole, base="kd"), kd_loss(student[:, :, 0], teacher[:, :, 0]))
    once = sdd_loss(student, teacher, labels, complementary_weight=1.0)
    rows = (side.movedim(1, 2).flatten(0, 1) for side in (student, teacher))
    torch.testing.assert_close(once, dkd_loss(*rows, labels.repeat_interleave(5)))


@pytest.mark.parametrize("base", ["dkd", "kd"])
def test_a_student_that_equals_its_teacher_has_no_loss(base: str) -> None:
    student, _, labels = regions(6, 5)
    assert abs(sdd_loss(student, student.clone(), labels, base=base).item()) < 1e-12  # type: ignore[arg-type]


@pytest.mark.parametrize("base", ["dkd", "kd"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_logits_at_which_probabilities_underflow_stay_finite(base: str, dtype: torch.dtype) -> None:
    student, teacher, labels = regions(6, 5)
    student = (2000 * student).to(dtype).requires_grad_()
    loss = sdd_loss(student, (2000 * teacher).to(dtype), labels, base=base)  # type: ignore[arg-type]
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("base", ["dkd", "kd"])
def test_unlabelled_images_count_neither_in_the_sum_nor_in_the_mean(base: str) -> None:
    student, teacher, _ = regions(6, 5)
    labels = torch.tensor([3, -1, 0, 4, -1, 2])
    kept = labels >= 0
    expected = sdd_loss(student[kept], teacher[kept], labels[kept], base=base)  # type: ignore[arg-type]
    torch.testing.assert_close(sdd_loss(student, teacher, labels, base=base), expected)  # type: ignore[arg-type]
    assert sdd_loss(student, teacher, torch.full((6,), -1), base=base) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("base", ["dkd", "kd"])
def test_gradients_are_those_of_finite_differences(base: str) -> None:
    student, teacher, labels = regions(2, 4)
    logits = (student / 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda side: sdd_loss(side, teacher, labels, base=base), logits)  # type: ignore[arg-type]


def test_what_are_no_regions_and_mixed_labels_are_refused() -> None:
    student, teacher, labels = regions(4, 5)
    with pytest.raises(UserError, match=r"\(M, C, N\), but got \(4, 5\)"):
        sdd_loss(student[:, :, 0], teacher[:, :, 0], labels)
    with pytest.raises(UserError, match=r"sdd needs one class number .*turn label mixing off"):
        sdd_loss(student, teacher, torch.full((4, 5), 0.2))
    with pytest.raises(UserError, match=r"\(4, 5, 5\).*\(4, 5, 1\)"):
        sdd_loss(student, teacher[:, :, :1], labels)
    with pytest.raises(UserError, match="base 'nkd' is"):
        sdd_loss(student, teacher, labels, base="nkd")  # type: ignore[arg-type]


def test_regions_are_the_whole_then_the_quarters_then_sixteenths() -> None:
    places = torch.arange(64.0).reshape(1, 1, 8, 8)
    whole = places.mean(dim=(2, 3))  # of a classifier without a bias
    found = logits_of_regions(places, whole)[0, 0]
    assert found.shape == (21,)
    assert found[0] == places.mean()
    assert found[1:5].tolist() == [places[..., h : h + 4, w : w + 4].mean() for h in (0, 4) for w in (0, 4)]
    assert found[5:7].tolist() == [places[..., :2, :2].mean(), places[..., :2, 2:4].mean()]
    assert logits_of_regions(places, whole, [1, 2]).shape == (1, 1, 5)
    corner = logits_of_regions(places[..., :2, :2], torch.tensor([[14.5]]), [1, 2])  # a bias of 10
    assert corner[0, 0].tolist() == [14.5, 10, 11, 18, 19]  # places are repeated, then averaged


def test_the_classifier_may_be_applied_before_or_after_the_mean() -> None:
    classifier, maps = nn.Linear(6, 5).double(), normal(3, 6, 7, 7)  # 7: squares that overlap, as on ImageNet
    squares = F.adaptive_avg_pool2d(maps, 4)
    means = [F.adaptive_avg_pool2d(squares, scale).flatten(2) for scale in (1, 2, 4)]
    after = classifier(torch.cat(means, dim=2).movedim(1, 2)).movedim(1, 2)
    logits = classifier(maps.mean(dim=(2, 3)))
    torch.testing.assert_close(logits_of_regions(class_activations(maps, classifier), logits), after)


def test_the_term_is_the_loss_of_both_sides_activations() -> None:
    method, batch = built(SDD, whole_context(), scales=[1, 2], alpha=0.5, complementary_weight=3), whole_pairing()
    student = logits_of_regions(batch.student_features["cam"], batch.student_logits, [1, 2])
    assert batch.teacher_logits is not None
    teacher = logits_of_regions(batch.teacher_features["cam"], batch.teacher_logits, [1, 2])
    expected = sdd_loss(student, teacher, batch.labels, alpha=0.5, complementary_weight=3)
    torch.testing.assert_close(method(batch)["sdd"], expected)


def test_default_weights_are_those_of_what_is_taken_of_a_region() -> None:
    dkd, kd = (SDD.default_loss_for(SDD.Config.model_validate({"base": base})) for base in ("dkd", "kd"))
    assert (dkd.task, dkd.distill, dkd.warmup_epochs) == (1, 1, 20)
    assert (kd.task, kd.distill, kd.warmup_epochs) == (0.1, 0.9, 0)


@pytest.mark.parametrize("scales", [[2, 4], [1, 3], [2, 1], [1, 1], []])
def test_scales_without_the_whole_image_or_of_other_squares_are_refused(scales: list[int]) -> None:
    with pytest.raises(ValueError, match="begins with the whole image"):
        SDD.Config.model_validate({"scales": scales})


def test_classifiers_that_tell_other_numbers_of_classes_apart_are_refused() -> None:
    def side(num_classes: int) -> TapShapes:
        return TapShapes({"cam": TapShape(num_classes, 4, 4)}, num_classes=5)

    with pytest.raises(UserError, match="the teacher's tells 7 classes apart and the student's 5"):
        SDD(SDD.Config(), Context(student=side(5), teacher=side(7), num_classes=5))
