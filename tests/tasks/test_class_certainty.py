"""How sure classifiers are of single images, against the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from understudy.core.batch import Batch
from understudy.tasks.class_certainty import certainty, certainty_of_images


def logits_of(seed: int) -> torch.Tensor:
    return 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))


def test_confidence_probability_of_the_label_and_divergence_follow_their_formulas() -> None:
    student, teacher, labels = logits_of(0), logits_of(1), torch.tensor([0, 1, 2, 3, 0, 1])
    p_s, p_t = (np.exp(x.double().numpy()) for x in (student, teacher))
    p_s, p_t = (p / p.sum(1, keepdims=True) for p in (p_s, p_t))

    found = certainty(student, labels, teacher)

    assert found["confidence"].numpy() == pytest.approx(p_s.max(1), rel=1e-5)
    assert found["label_probability"].numpy() == pytest.approx(p_s[np.arange(6), labels], rel=1e-5)
    assert found["kl"].numpy() == pytest.approx((p_t * np.log(p_t / p_s)).sum(1), rel=1e-4)


def test_a_teacher_that_is_certain_and_logits_that_are_none_stay_numbers_or_nan() -> None:
    student = torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])
    teacher = torch.tensor([[1e4, -1e4], [0.0, 0.0]])

    found = certainty(student, torch.tensor([0, 0]), teacher)

    assert found["kl"][0].item() == pytest.approx(np.log1p(np.e), rel=1e-5)
    assert all(torch.isnan(values[1]) for values in found.values())


def test_unlabelled_images_are_left_out_and_places_follow_the_batches() -> None:
    student, teacher = logits_of(0), logits_of(1)
    targets = torch.tensor([0, -1, 2, 3, -1, 1])
    batches = [
        Batch(student[i : i + 4], targets[i : i + 4], teacher[i : i + 4], torch.arange(6)[i : i + 4]) for i in (0, 4)
    ]

    found = certainty_of_images(
        {"a": lambda batch: batch.images}, batches, torch.device("cpu"), teacher=lambda batch: batch.teacher_images
    )

    kept = targets >= 0
    expected = certainty(student[kept], targets[kept], teacher[kept])
    assert found.indices is not None
    assert found.indices.tolist() == [0, 2, 3, 5]
    assert found.labels.tolist() == [0, 2, 3, 1]
    assert all(torch.equal(found.by_model["a"][what], values) for what, values in expected.items())
    assert set(found.teacher) == {"confidence", "label_probability"}


def test_a_stream_without_places_has_none_and_no_teacher_no_divergence() -> None:
    found = certainty_of_images(
        {"a": lambda b: b.images}, [Batch(logits_of(0), torch.zeros(6).long())], torch.device("cpu")
    )

    assert found.indices is None
    assert set(found.by_model["a"]) == {"confidence", "label_probability"}
    assert found.teacher == {}
