from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.examples import Array, few, normal, seeds, total
from helpers.examples_relations import NUM_CLASSES, NUM_TRAIN, built, rotated_pairing
from understudy.core.batch import Pairing
from understudy.core.taps import TapShape
from understudy.methods.base import Context, TapShapes
from understudy.methods.crd import CRD, Negatives, crd_log_normaliser, crd_loss, crd_scores, remember_
from understudy.utils.errors import UserError

SMALL: dict[str, object] = {"embedding_dim": 5, "num_negatives": 10}


def crd_by_the_formula(anchors: Array, memory: Array, contrast: Array, temperature: float) -> tuple[float, float]:
    """The loss of the first batch, and its Z."""
    num_samples, noise = len(memory), (contrast.shape[1] - 1) / len(memory)
    scores = np.array(
        [[np.exp(a @ memory[k] / temperature) for k in row] for a, row in zip(anchors, contrast, strict=True)]
    )
    z = float(scores.mean() * num_samples)
    total = 0.0
    for row in scores / z:
        total -= np.log(row[0] / (row[0] + noise + 1e-7))
        total -= sum(np.log(noise / (x + noise + 1e-7)) for x in row[1:])
    return total / len(anchors), z


def some_contrast(num_rows: int, num_negatives: int, num_samples: int, seed: int) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(num_samples, (num_rows, num_negatives + 1), generator=drawn)


@few
@given(seeds, st.integers(1, 6), st.integers(1, 9))
def test_crd_equals_the_formula_of_the_paper(seed: int, num_rows: int, num_negatives: int) -> None:
    anchors, memory = F.normalize(normal(num_rows, 4, seed=seed), dim=1), normal(12, 4, seed=seed + 1, scale=0.5)
    contrast = some_contrast(num_rows, num_negatives, 12, seed)
    expected, z = crd_by_the_formula(anchors.numpy(), memory.numpy(), contrast.numpy(), 0.2)

    scores = crd_scores(anchors, memory, contrast, temperature=0.2)
    log_normaliser = crd_log_normaliser(scores, 12)

    assert log_normaliser.item() == pytest.approx(np.log(z), rel=1e-9)
    assert crd_loss(scores, log_normaliser, num_samples=12).item() == pytest.approx(expected, rel=1e-8)


@few
@given(seeds)
def test_order_of_the_batch_leaves_the_loss_unchanged_if_negatives_go_along(seed: int) -> None:
    anchors, memory, contrast = normal(6, 4, seed=seed), normal(12, 4, seed=seed + 1), some_contrast(6, 5, 12, seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    z = torch.tensor(1.5, dtype=torch.float64)

    def loss(order: Tensor) -> Tensor:
        return crd_loss(crd_scores(anchors[order], memory, contrast[order]), z, num_samples=12)

    torch.testing.assert_close(loss(order), loss(torch.arange(6)))


def test_few_negatives_of_a_large_memory_give_the_same_scores_as_many() -> None:
    anchors, memory = normal(3, 2), normal(40, 2, seed=1)
    contrast = some_contrast(3, 4, 40, 0)  # 5 * 2 < 40: their rows are gathered
    expected = (anchors @ memory.T).gather(1, contrast) / 0.07
    torch.testing.assert_close(crd_scores(anchors, memory, contrast), expected)


@pytest.mark.parametrize("score", [-1e4, 0.0, 1e4])
def test_scores_of_any_size_have_a_finite_loss_and_gradient(score: float) -> None:
    scores = torch.full((2, 4), score, requires_grad=True)
    loss = crd_loss(scores, torch.tensor(3.0), num_samples=10)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_memory_moves_half_way_and_back_to_length_one() -> None:
    memory, rows = normal(6, 3), normal(2, 3, seed=1)
    before = memory.clone()
    remember_(memory, torch.tensor([4, 1]), rows, momentum=0.5)
    torch.testing.assert_close(memory[[4, 1]], F.normalize(0.5 * before[[4, 1]] + 0.5 * rows, dim=1))
    assert torch.equal(memory[[0, 2, 3, 5]], before[[0, 2, 3, 5]])


def test_memory_takes_the_mean_of_several_rows_of_a_sample() -> None:
    rows, indices = normal(4, 3, seed=1), torch.tensor([2, 0, 2, 2])
    one, other = normal(3, 3), normal(3, 3)
    expected = F.normalize(0.9 * one[2] + 0.1 * rows[[0, 2, 3]].mean(dim=0), dim=0)
    remember_(one, indices, rows, momentum=0.9)
    remember_(other, indices.flip(0), rows.flip(0), momentum=0.9)
    torch.testing.assert_close(one[2], expected)
    torch.testing.assert_close(one, other)


@few
@given(seeds)
def test_negatives_are_all_samples_of_other_classes_and_no_others(seed: int) -> None:
    labels = torch.tensor([2, 0, 2, 1, -1, 0, 2, 1])
    torch.manual_seed(seed)
    contrast = Negatives(labels, 5)(torch.arange(8).repeat(200))
    assert contrast.shape == (1600, 6)
    assert torch.equal(contrast[:, 0], torch.arange(8).repeat(200))
    for sample in range(8):
        drawn = set(contrast[contrast[:, 0] == sample, 1:].flatten().tolist())
        assert drawn == {other for other in range(8) if labels[other] != labels[sample]}


def test_negatives_are_drawn_uniformly() -> None:
    torch.manual_seed(0)
    contrast = Negatives(torch.tensor([0, 1, 1, 2, 2, 2]), 3)(torch.zeros(10_000, dtype=torch.long))
    shares = contrast[:, 1:].flatten().bincount(minlength=6) / 30_000
    torch.testing.assert_close(shares, torch.tensor([0, 0.2, 0.2, 0.2, 0.2, 0.2]), atol=0.01, rtol=0)


def test_more_negatives_than_there_are_become_as_many_as_there_are() -> None:
    assert Negatives(torch.tensor([0, 0, 0, 1, 2]), 16384).count == 2
    assert Negatives(torch.arange(5), 16384).count == 4


def test_the_memory_changes_after_the_scores_and_before_the_backward_pass() -> None:
    method, batch = built("crd", **SMALL), rotated_pairing()
    assert batch.indices is not None
    contrast = some_contrast(20, 10, NUM_TRAIN, 0)
    before = method.memory.clone()
    features = batch.student_features["embedding"]

    terms = method(batch, contrast)
    found = torch.autograd.grad(total(terms), features)[0]

    def loss_by_hand() -> Tensor:
        student = F.normalize(method.student_embedding(features), dim=1)
        scores = crd_scores(student, before[1], contrast)
        return crd_loss(scores, crd_log_normaliser(scores, NUM_TRAIN), num_samples=NUM_TRAIN)

    torch.testing.assert_close(terms["student"], loss_by_hand())
    torch.testing.assert_close(found, torch.autograd.grad(loss_by_hand(), features)[0])
    is_seen = torch.zeros(NUM_TRAIN, dtype=torch.bool)
    is_seen[batch.indices] = True
    assert (method.memory != before).any(dim=2)[:, is_seen].all()
    assert torch.equal(method.memory[:, ~is_seen], before[:, ~is_seen])


def test_the_normaliser_is_that_of_the_first_batch() -> None:
    method = built("crd", **SMALL)
    assert method.log_normaliser.isinf().all()
    method(rotated_pairing())
    first = method.log_normaliser.clone()
    method(rotated_pairing(seed=7))
    assert first.isfinite().all()
    assert torch.equal(method.log_normaliser, first)


def test_nothing_is_remembered_in_evaluation_mode() -> None:
    method = built("crd", **SMALL).eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    assert total(method(rotated_pairing())).isfinite()
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_a_resumed_method_goes_on_bit_for_bit() -> None:
    one, other = built("crd", **SMALL), built("crd", **SMALL)
    torch.nn.init.zeros_(other.memory)
    one(rotated_pairing())
    other.load_state_dict(one.state_dict())
    losses = []
    for method in (one, other):
        torch.manual_seed(5)
        losses.append(total(method(rotated_pairing(seed=3))))
    assert torch.equal(*losses)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_the_gradient_can_be_taken_twice_as_two_backward_passes_do() -> None:
    method, batch = built("crd", **SMALL), rotated_pairing()
    loss, features = total(method(batch)), batch.student_features["embedding"]
    first = torch.autograd.grad(loss, features, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, features)[0], first)


def context_of(**settings: object) -> Context:
    side = TapShapes({"embedding": TapShape(6)}, num_classes=NUM_CLASSES)
    return Context(student=side, teacher=side, num_classes=NUM_CLASSES, **settings)  # type: ignore[arg-type]


def test_crd_without_a_known_training_set_says_what_is_missing() -> None:
    with pytest.raises(UserError, match=r"'crd' keeps a memory of the training samples.*give train_labels"):
        CRD(CRD.Config(), context_of())


def test_crd_without_labels_says_how_to_do_without() -> None:
    with pytest.raises(UserError, match=r"labels are not known.*method.negatives=other_samples"):
        CRD(CRD.Config(), context_of(num_train=8))
    assert CRD(CRD.Config(negatives="other_samples"), context_of(num_train=8)).negatives.count == 7


def test_crd_on_one_class_says_how_to_do_without_others() -> None:
    with pytest.raises(UserError, match=r"all 8 training samples are of one class.*other_samples"):
        CRD(CRD.Config(), context_of(num_train=8, train_labels=torch.zeros(8, dtype=torch.long)))


def test_crd_trained_on_fixed_features_tells_samples_apart() -> None:
    features = normal(NUM_TRAIN, 6, scale=1.0).float()
    torch.manual_seed(0)
    method = CRD(CRD.Config(embedding_dim=8, negatives="other_samples"), context_of(num_train=NUM_TRAIN))
    batch = Pairing(
        student_logits=torch.zeros(NUM_TRAIN, 2),
        teacher_logits=None,
        labels=torch.zeros(NUM_TRAIN),
        student_features={"embedding": features},
        teacher_features={"embedding": features.flip(1)},
        indices=torch.arange(NUM_TRAIN),
    )
    optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        total(method(batch)).backward()
        optimizer.step()

    student = F.normalize(method.student_embedding(features), dim=1)
    nearest = (student @ method.memory[1].T).argmax(dim=1)
    assert (nearest == torch.arange(NUM_TRAIN)).float().mean() > 0.8
