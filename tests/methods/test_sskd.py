from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.examples import Array, few, normal, random_labels, seeds, softmax, total
from helpers.examples_relations import built, changed, cosine, rotated_pairing
from understudy.methods.shared.relations import rows_by_copy
from understudy.methods.sskd import SSKD, kept_rows, similarities, sskd_loss
from understudy.utils.errors import UserError

sample_counts = st.integers(2, 5)


def kept_by_the_formula(scores: Array, labels: list[int], ratio: float) -> list[int]:
    ranks = [int((row > row[y]).sum()) for row, y in zip(scores, labels, strict=True)]
    wrong = sorted((m for m, rank in enumerate(ranks) if rank), key=lambda m: (ranks[m], -_share(scores[m], labels[m])))
    return [m for m, rank in enumerate(ranks) if not rank] + wrong[: int(len(wrong) * ratio)]


def _share(row: Array, place: int) -> float:
    return float(np.exp(row[place]) / np.exp(row).sum())


def divergence_by_the_formula(student: Tensor, teacher: Tensor, temperature: float, kept: list[int]) -> float:
    p, q = softmax(teacher, temperature)[kept], softmax(student, temperature)[kept]
    return float(temperature**2 * (p * np.log(p / q)).sum(axis=1).mean()) if kept else 0.0


def similarities_by_the_formula(embeddings: Tensor) -> Tensor:
    plain, turned = embeddings[0].numpy(), embeddings[1:].flatten(0, 1).numpy()
    return torch.tensor([[cosine(a, b) for b in plain] for a in turned], dtype=torch.float64)


@few
@given(seeds, sample_counts)
def test_sskd_equals_the_formula_of_the_paper(seed: int, num_samples: int) -> None:
    student, teacher = normal(4, num_samples, 6, seed=seed), normal(4, num_samples, 6, seed=seed + 1)
    ours, theirs = normal(4, num_samples, 3, seed=seed + 2), normal(4, num_samples, 5, seed=seed + 3)
    labels = random_labels(num_samples, 6, seed)
    found = sskd_loss(
        student,
        teacher,
        ours,
        theirs,
        labels,
        kd_weight=0.5,
        transformed_weight=2.0,
        similarity_weight=3.0,
        temperature=2.0,
        transformed_temperature=3.0,
        similarity_temperature=0.7,
        transformed_ratio=0.6,
        similarity_ratio=0.4,
    )

    turned_student, turned_teacher = student[1:].flatten(0, 1), teacher[1:].flatten(0, 1)
    said, seen = similarities_by_the_formula(ours), similarities_by_the_formula(theirs)
    kept = kept_by_the_formula(turned_teacher.numpy(), labels.tolist() * 3, 0.6)
    kept_similar = kept_by_the_formula(seen.numpy(), list(range(num_samples)) * 3, 0.4)
    expected = (
        0.5 * divergence_by_the_formula(student[0], teacher[0], 2.0, list(range(num_samples)))
        + 2.0 * divergence_by_the_formula(turned_student, turned_teacher, 3.0, kept)
        + 3.0 * divergence_by_the_formula(said, seen, 0.7, kept_similar)
    )
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@few
@given(seeds, sample_counts)
def test_a_student_that_equals_its_teacher_has_no_loss(seed: int, num_samples: int) -> None:
    logits, embeddings = normal(4, num_samples, 6, seed=seed), normal(4, num_samples, 3, seed=seed + 1)
    labels = random_labels(num_samples, 6, seed)
    found = sskd_loss(logits, logits.clone(), 2 * embeddings, embeddings, labels)
    assert found.item() == pytest.approx(0, abs=1e-10)


def test_right_rows_are_kept_and_the_least_wrong_of_the_others() -> None:
    scores = torch.tensor([[3.0, 2, 1, 0]] * 4)
    assert kept_rows(scores, torch.tensor([3, 0, 2, 1]), 0.7).tolist() == [False, True, True, True]
    assert kept_rows(scores, torch.tensor([3, 0, 2, 1]), 0.3).tolist() == [False, True, False, False]
    assert kept_rows(scores, torch.tensor([3, 0, 2, 1]), 1.0).all()


def test_at_equal_rank_the_more_probable_row_is_kept() -> None:
    scores = torch.tensor([[5.0, 0, 0], [1.0, 0.5, 0], [2.0, 1, 0]])
    assert kept_rows(scores, torch.tensor([1, 1, 1]), 0.34).tolist() == [False, True, False]


def test_unlabelled_rows_count_as_right() -> None:
    scores = torch.tensor([[3.0, 2, 1], [3.0, 2, 1], [3.0, 2, 1]])
    assert kept_rows(scores, torch.tensor([-1, 2, 1]), 0.5).tolist() == [True, False, True]


def test_a_first_run_trains_the_head_of_the_teacher_alone() -> None:
    method, batch = built("sskd", stage="head"), rotated_pairing()
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"teacher_head"}
    assert SSKD.default_loss_for(method.config).task == 0
    assert SSKD.needs_for(method.config) == {"indices", "copies"}

    optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
    first = method(batch)
    assert first.keys() == {"head"}
    for _ in range(30):
        optimizer.zero_grad()
        total(method(batch)).backward()
        optimizer.step()
    assert method(batch)["head"] < 0.9 * first["head"]
    assert batch.student_features["embedding"].grad is None


def test_a_second_run_starts_from_the_head_and_leaves_it_alone() -> None:
    first, second = built("sskd", stage="head"), built("sskd", init_from="run")
    missing = second.load_state_dict(first.state_dict(), strict=False)
    assert not missing.unexpected_keys
    batch = rotated_pairing()
    terms = second(batch)
    assert terms.keys() == {"kd", "transformed", "similarity"}
    total(terms).backward()
    assert all(parameter.grad is None for parameter in second.teacher_head.parameters())
    assert all(parameter.grad is not None for parameter in second.student_head.parameters())


def test_training_together_the_head_learns_from_its_own_term_only() -> None:
    together, alone, batch = built("sskd", stage="together"), built("sskd", stage="head"), rotated_pairing()
    alone.load_state_dict(together.state_dict(), strict=False)
    total(together(batch)).backward()
    total(alone(batch)).backward()
    for ours, theirs in zip(together.teacher_head.parameters(), alone.teacher_head.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_second_run_alone_is_refused_with_the_way_to_it() -> None:
    with pytest.raises(UserError, match=r"method.stage=head and then.*method.init_from, or set method.stage=together"):
        built("sskd")


def test_terms_of_sskd_carry_their_weights() -> None:
    settings: dict[str, object] = {
        "stage": "together",
        "kd_weight": 0.5,
        "transformed_weight": 2.0,
        "similarity_weight": 3.0,
        "temperature": 2.0,
        "transformed_temperature": 3.0,
        "similarity_temperature": 0.7,
        "transformed_ratio": 0.6,
        "similarity_ratio": 0.4,
    }
    method, batch = built("sskd", **settings), changed(rotated_pairing(), torch.Tensor.detach)
    assert batch.indices is not None
    assert batch.copies is not None
    assert batch.teacher_logits is not None
    rows = rows_by_copy(batch.copies, batch.indices)
    heads = [
        method.student_head(batch.student_features["embedding"])[rows],
        method.teacher_head(batch.teacher_features["embedding"])[rows],
    ]
    of_loss = {name: value for name, value in settings.items() if name != "stage"}
    expected = sskd_loss(
        batch.student_logits[rows],
        batch.teacher_logits[rows],
        *heads,
        batch.labels[rows[0]],
        **of_loss,  # type: ignore[arg-type]
    )
    terms = method(batch)
    torch.testing.assert_close(terms["kd"] + terms["transformed"] + terms["similarity"], expected)


def test_similarities_of_half_embeddings_are_float32() -> None:
    assert similarities(normal(4, 2, 3).half()).dtype == torch.float32
