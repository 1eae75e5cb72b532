from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.examples import Array, few, normal, random_labels, row_counts, seeds, softmax
from understudy.core.batch import Pairing
from understudy.core.taps import Taps, TapShape
from understudy.methods.base import Context, TapShapes
from understudy.methods.uskd import USKD, uskd_loss
from understudy.utils.errors import UserError


def smoothed_cross_entropy(logits: Tensor, shares: Array) -> float:
    target = 0.9 * shares + 0.1 / logits.shape[1]
    return float(-(target * np.log(softmax(logits))).sum(axis=1).mean())


def uskd_by_the_formula(
    student: Tensor, weak: Tensor, slots: list[list[int]], shares: list[list[float]], *, logs: bool
) -> tuple[float, float]:
    """Target and non-target term, sample by sample; a sample's labels and their shares in its slots."""
    p, w = softmax(student), softmax(weak)
    picked = np.array([[p[i, c] for c in classes] for i, classes in enumerate(slots)])
    soft = (picked**2 + np.array(shares) - (picked**2).mean(axis=0)) * (np.array(shares) != 0)
    target = -(soft * np.log(picked)).sum(axis=1).mean()
    non_target = 0.0
    for i, classes in enumerate(slots):
        s = np.log(p[i]) if logs else p[i]
        score = w[i] / (1 - w[i, classes].sum() + 1e-6) + s / (1 - s[classes].sum() + 1e-6)
        rank = {int(c): position + 1 for position, c in enumerate(np.argsort(-score))}
        others = [c for c in range(len(score)) if c not in classes]
        weight = np.array([1 / rank[c] for c in others])
        q = p[i, others] / p[i, others].sum()
        non_target -= (weight / weight.sum() * np.log(q)).sum()
    return float(target), float(non_target / len(slots))


@pytest.mark.parametrize("logs", [True, False])
@few
@given(seed=seeds, num_rows=row_counts, num_classes=st.integers(3, 12))
def test_uskd_equals_its_formula_with_hard_labels(logs: bool, seed: int, num_rows: int, num_classes: int) -> None:
    student, weak = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    labels = random_labels(num_rows, num_classes, seed)
    slots = [[label] for label in labels.tolist()]
    target, non_target = uskd_by_the_formula(student, weak, slots, [[1.0]] * num_rows, logs=logs)
    weak_term = smoothed_cross_entropy(weak, np.eye(num_classes)[labels.numpy()])
    found = uskd_loss(student, weak, labels, alpha=0.7, beta=0.3, mu=0.2, ranks_log_student=logs)
    assert found.item() == pytest.approx(0.7 * target + 0.3 * non_target + 0.2 * weak_term, rel=1e-6)


@few
@given(seed=seeds, num_rows=row_counts, num_classes=st.integers(4, 12))
def test_uskd_equals_its_formula_with_two_mixed_labels(seed: int, num_rows: int, num_classes: int) -> None:
    student, weak = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    first = random_labels(num_rows, num_classes, seed)
    second = (first + 1) % num_classes
    labels = torch.zeros(num_rows, num_classes, dtype=torch.float64)
    labels[torch.arange(num_rows), first], labels[torch.arange(num_rows), second] = 0.7, 0.3
    slots = torch.stack([first, second], dim=1).tolist()
    target, non_target = uskd_by_the_formula(student, weak, slots, [[0.7, 0.3]] * num_rows, logs=True)
    expected = 0.1 * (target + non_target + smoothed_cross_entropy(weak, labels.numpy()))
    assert uskd_loss(student, weak, labels).item() == pytest.approx(expected, rel=1e-6)


def test_a_second_label_of_share_zero_gives_no_target() -> None:
    student, labels = normal(4, 6), torch.eye(6, dtype=torch.float64)[:4]
    found = uskd_loss(student, normal(4, 6, seed=1), labels, beta=0, mu=0)
    expected = uskd_loss(student, normal(4, 6, seed=1), labels.argmax(dim=1), beta=0, mu=0)
    torch.testing.assert_close(found, expected)


def test_the_two_rankings_disagree_on_some_rows() -> None:
    student, weak, labels = normal(6, 8), normal(6, 8, seed=1), random_labels(6, 8)
    as_released, as_meant = (uskd_loss(student, weak, labels, ranks_log_student=logs) for logs in (True, False))
    assert not torch.isclose(as_released, as_meant, rtol=1e-3)


def test_a_certain_auxiliary_classifier_leaves_the_ranking_to_the_student() -> None:
    labels = random_labels(5, 6)
    certain = 1000 * torch.nn.functional.one_hot(labels, 6).double()
    student = normal(5, 6) + 0.02 * certain  # the label ranks first on both sides

    def non_target(weak: Tensor) -> Tensor:
        return uskd_loss(student, weak, labels, alpha=0, mu=0, ranks_log_student=False)

    torch.testing.assert_close(non_target(certain), non_target(torch.zeros(5, 6).double()))


def test_soft_labels_and_ranks_carry_no_gradient() -> None:
    student, weak, labels = normal(5, 6).requires_grad_(), normal(5, 6, seed=1).requires_grad_(), random_labels(5, 6)
    (found,) = torch.autograd.grad(uskd_loss(student, weak, labels, beta=0, mu=0), student)
    p = softmax(student.detach())
    picked = p[np.arange(5), labels.numpy()]
    soft = picked**2 + 1 - (picked**2).mean()
    expected = 0.1 * soft[:, None] * (p - np.eye(6)[labels.numpy()]) / 5
    torch.testing.assert_close(found, torch.from_numpy(expected))
    (through_ranks,) = torch.autograd.grad(
        uskd_loss(student, weak, labels, mu=0), weak, allow_unused=True, materialize_grads=True
    )
    assert not through_ranks.any()


def stages(*channels: int) -> Context:
    shapes = {f"stages.{i}": TapShape(count, 4, 4) for i, count in enumerate(channels)}
    student = TapShapes({"embedding": TapShape(9), **shapes}, num_classes=5)
    return Context(student=student, teacher=TapShapes({}, num_classes=7), num_classes=5)


def batch() -> Pairing:
    features = {f"stages.{i}": normal(6, c, 4, 4, seed=i).float().requires_grad_() for i, c in enumerate((3, 4, 6))}
    return Pairing(normal(6, 5).float().requires_grad_(), None, random_labels(6, 5), student_features=features)


def test_uskd_trains_a_classifier_on_the_last_stage_but_one_and_needs_no_teacher() -> None:
    method, pairing = USKD(USKD.Config(), stages(3, 4, 6)), batch()

    terms = method(pairing)
    sum(terms.values(), torch.zeros(())).backward()

    assert terms.keys() == {"target", "non_target", "weak"}
    assert method.weak_classifier.weight.shape == (5, 4)
    assert all(weight.grad is not None and weight.grad.any() for weight in method.parameters())
    gradients = [feature.grad is not None for feature in pairing.student_features.values()]
    assert gradients == [False, True, False]
    assert method.needs_for(method.config) == frozenset()
    assert method.taps_for(method.config) == Taps(student=("stages",))


def test_terms_of_uskd_carry_their_weights() -> None:
    pairing = batch()
    method = USKD(USKD.Config(alpha=2.0, beta=0.0, mu=3.0), stages(3, 4, 6))
    weak = method.weak_classifier(pairing.student_features["stages.1"].mean(dim=(2, 3)))
    terms = method(pairing)
    for name, weights in {"target": (2.0, 0.0, 0.0), "non_target": (0.0, 0.0, 0.0), "weak": (0.0, 0.0, 3.0)}.items():
        alpha, beta, mu = weights
        expected = uskd_loss(pairing.student_logits, weak, pairing.labels, alpha=alpha, beta=beta, mu=mu)
        torch.testing.assert_close(terms[name], expected)


def test_another_place_can_be_named() -> None:
    config = USKD.Config(student_tap="stages.0")
    assert USKD.taps_for(config) == Taps(student=("stages.0",))
    assert USKD(config, stages(3, 4)).weak_classifier.in_features == 3


def test_a_student_of_one_stage_is_refused_with_the_cure() -> None:
    with pytest.raises(UserError, match=r"'uskd'.*last stage but one.*has 1; set method.student_tap"):
        USKD(USKD.Config(), stages(3))


def test_a_group_of_stages_is_refused_with_the_stages_there_are() -> None:
    with pytest.raises(UserError, match=r"method.student_tap 'stages'.*stages\.0, stages\.1.*name one"):
        USKD(USKD.Config(student_tap="stages"), stages(3, 4))


def test_auxiliary_logits_of_other_classes_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(4, 6\).*\(4, 5\)"):
        uskd_loss(normal(4, 5), normal(4, 6), random_labels(4, 5))
