from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import class_counts, few, normal, random_labels, row_counts, seeds, softmax, total
from helpers.examples_relations import NUM_CLASSES, STAGES, built, rotated_pairing
from understudy.core.taps import TapShape
from understudy.methods.hsakd import HSAKD, auxiliary_head, hsakd_loss, joint_label_loss
from understudy.methods.kd import kd_loss
from understudy.utils.errors import UserError


def divergence_by_the_formula(student: Tensor, teacher: Tensor, temperature: float) -> float:
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return float(temperature**2 * (p * np.log(p / q)).sum(axis=1).mean())


@few
@given(seeds, row_counts, class_counts)
def test_hsakd_equals_the_formula_of_the_paper(seed: int, num_rows: int, num_classes: int) -> None:
    sizes = (num_classes, 4 * num_classes, 4 * num_classes)
    student = [normal(num_rows, size, seed=seed + i) for i, size in enumerate(sizes)]
    teacher = [normal(num_rows, size, seed=seed + 9 + i) for i, size in enumerate(sizes)]
    expected = sum(divergence_by_the_formula(s, t, 2.0) for s, t in zip(student, teacher, strict=True))
    found = hsakd_loss(student[0], teacher[0], student[1:], teacher[1:], temperature=2.0)
    assert found.item() == pytest.approx(expected, rel=1e-9)
    same = hsakd_loss(student[0], student[0].clone(), student[1:], [s.clone() for s in student[1:]])
    assert same.item() == pytest.approx(0, abs=1e-11)


@few
@given(seeds, row_counts)
def test_joint_classes_are_four_times_the_class_plus_the_rotation(seed: int, num_rows: int) -> None:
    logits, labels = normal(num_rows, 12, seed=seed), random_labels(num_rows, 3, seed)
    copies = random_labels(num_rows, 4, seed + 1)
    p = softmax(logits)
    rows = zip(labels.tolist(), copies.tolist(), strict=True)
    expected = -np.mean([np.log(p[m, 4 * y + k]) for m, (y, k) in enumerate(rows)])
    assert joint_label_loss([logits], labels, copies).item() == pytest.approx(expected, rel=1e-9)
    assert joint_label_loss([logits, logits], labels, copies).item() == pytest.approx(2 * expected, rel=1e-9)


def test_unlabelled_rows_do_not_count_in_the_joint_classes() -> None:
    logits, labels, copies = normal(4, 12), torch.tensor([1, -1, 0, -1]), torch.tensor([0, 1, 2, 3])
    expected = joint_label_loss([logits[[0, 2]]], labels[[0, 2]], copies[[0, 2]])
    torch.testing.assert_close(joint_label_loss([logits], labels, copies), expected)
    assert joint_label_loss([logits], torch.full((4,), -1), copies) == 0


@pytest.mark.parametrize("first", [TapShape(3, 8, 8), TapShape(6, 4, 4), TapShape(6)])
def test_a_head_goes_through_the_sizes_of_the_stages_after_it(first: TapShape) -> None:
    head = auxiliary_head([first, TapShape(6, 4, 4), TapShape(9, 2, 2)], num_classes=5)
    size = [side for side in (first.channels, first.height or 1, first.width or 1) if side]
    maps = torch.randn(2, *size)
    for block in head[:2]:
        maps = block(maps)
    assert maps.shape[1] == 9
    assert maps.shape[2] == (2 if first.height else 1)
    assert head(torch.randn(2, *size)).shape == (2, 20)


def test_a_first_run_trains_the_heads_of_the_teacher_alone() -> None:
    method, batch = built("hsakd", stage="heads", **STAGES), rotated_pairing()
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"teacher_heads"}
    assert HSAKD.default_loss_for(method.config).task == 0
    assert HSAKD.needs_for(method.config) == {"hard_labels", "copies"}

    optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
    first = method(batch)
    assert first.keys() == {"heads"}
    for _ in range(20):
        optimizer.zero_grad()
        total(method(batch)).backward()
        optimizer.step()
    assert method(batch)["heads"] < 0.7 * first["heads"]


def test_a_second_run_leaves_heads_and_their_statistics_alone() -> None:
    first, second = built("hsakd", stage="heads", **STAGES), built("hsakd", init_from="run", **STAGES)
    assert not second.load_state_dict(first.state_dict(), strict=False).unexpected_keys
    before = {name: value.clone() for name, value in second.teacher_heads.state_dict().items()}

    terms = second(rotated_pairing())
    second.train()
    second(rotated_pairing())
    total(terms).backward()

    assert terms.keys() == {"kd", "joint"}
    assert all(parameter.grad is None for parameter in second.teacher_heads.parameters())
    assert all(torch.equal(value, before[name]) for name, value in second.teacher_heads.state_dict().items())


def test_training_together_the_heads_learn_from_their_own_term_only() -> None:
    together, batch = built("hsakd", stage="together", **STAGES), rotated_pairing()
    alone = built("hsakd", stage="heads", **STAGES)
    alone.load_state_dict({k: v for k, v in together.state_dict().items() if k.startswith("teacher")})
    assert HSAKD.needs_for(together.config) == {"teacher_logits", "hard_labels", "copies"}
    total(together(batch)).backward()
    total(alone(batch)).backward()
    for ours, theirs in zip(together.teacher_heads.parameters(), alone.teacher_heads.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_terms_of_hsakd_are_those_of_its_loss() -> None:
    method, batch = built("hsakd", init_from="run", temperature=2.0, **STAGES).eval(), rotated_pairing()
    assert batch.teacher_logits is not None
    joint = [
        [head(features[f"stages.{i}"]) for i, head in enumerate(heads)]
        for heads, features in (
            (method.student_heads, batch.student_features),
            (method.teacher_heads, batch.teacher_features),
        )
    ]
    assert joint[0][0].shape == (20, 4 * NUM_CLASSES)
    terms = method(batch)
    torch.testing.assert_close(terms["kd"], kd_loss(batch.student_logits, batch.teacher_logits, temperature=2.0))
    expected = hsakd_loss(batch.student_logits, batch.teacher_logits, *joint, temperature=2.0)
    torch.testing.assert_close(total(terms), expected)


def test_the_second_run_alone_is_refused_with_the_way_to_it() -> None:
    with pytest.raises(UserError, match=r"method.stage=heads and then.*method.init_from, or set method.stage=together"):
        built("hsakd")


def test_heads_of_other_stages_are_refused() -> None:
    one_stage: dict[str, object] = {"student_stages": [1], "teacher_stages": [1]}
    first = built("hsakd", stage="heads", **one_stage)
    second = built("hsakd", init_from="run", **STAGES)
    shared = {key: value for key, value in first.state_dict().items() if key in second.state_dict()}
    with pytest.raises(
        UserError, match=r"heads at other stages than these: stages.0, stages.1; give both runs the same"
    ):
        second.load_state_dict(shared, strict=False)
    assert built("hsakd", stage="heads", **STAGES).load_state_dict({}, strict=False).missing_keys


def test_a_resumed_second_run_has_its_heads_again() -> None:
    one, other = built("hsakd", init_from="run", **STAGES), built("hsakd", init_from="run", **STAGES)
    one(rotated_pairing())
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
