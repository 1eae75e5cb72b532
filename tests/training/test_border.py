"""What is refused on the first batch, in words that name the method and the cure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from understudy import methods
from understudy.core.batch import Pairing
from understudy.core.taps import TapShape
from understudy.methods.base import Context, Method, TapShapes
from understudy.training.checks import check_pairing
from understudy.utils.errors import UserError

SHAPES = TapShapes({"embedding": TapShape(6)}, num_classes=4)


def built(name: str, **settings: Any) -> Method:
    config = methods.METHODS[name].Config(**settings)
    labels = torch.arange(8) % 4
    context = Context(student=SHAPES, teacher=SHAPES, num_classes=4, num_train=8, train_labels=labels)
    return config.method(config, context)


def pairing(**changes: Any) -> Pairing:
    good = Pairing(
        student_logits=torch.zeros(5, 4),
        teacher_logits=torch.zeros(5, 4),
        labels=torch.tensor([0, 1, 2, 3, -1]),
        student_features={"embedding": torch.zeros(5, 6)},
        teacher_features={"embedding": torch.zeros(5, 6)},
        indices=torch.arange(5),
    )
    return replace(good, **changes)


def test_a_good_pairing_passes_every_method_that_it_has_all_for() -> None:
    check_pairing(pairing(), [built("kd"), built("dkd"), built("dist"), built("projector"), built("pkt")])


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("kd", {"labels": torch.tensor([0, 1, 2, 3, 4])}, "label 4 is outside the student's classes 0..3"),
        ("kd", {"labels": torch.tensor([0, 1, 2, 3, -2])}, "label -2 is outside"),
        ("kd", {"labels": torch.ones(5, 3) / 3}, "mixed labels have 3 classes, but the student has 4"),
        ("dkd", {"labels": torch.ones(5, 4) / 4}, "method 'dkd' needs one class for each image.*turn Mixup off"),
        ("kd", {"teacher_logits": None}, "method 'kd' reads the teacher's logits, and there is no teacher"),
        ("kd", {"teacher_logits": torch.full((5, 4), torch.nan)}, "method 'kd': the teacher's logits is not finite"),
        (
            "projector",
            {"teacher_features": {"embedding": torch.full((5, 6), torch.inf)}},
            "method 'projector': the teacher's embedding is not finite on the first batch",
        ),
        (
            "projector",
            {"student_features": {"embedding": torch.zeros(3, 6)}},
            "method 'projector': the student's 'embedding' has 3 rows in a batch of 5",
        ),
    ],
)
def test_a_pairing_that_makes_no_sense_is_refused(name: str, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        check_pairing(pairing(**changes), [built(name)])


def test_a_memory_of_samples_needs_to_know_which_they_are() -> None:
    crd = built("crd", num_negatives=2, embedding_dim=2)
    with pytest.raises(UserError, match=r"method 'crd' keeps a memory of the training samples"):
        check_pairing(pairing(indices=None), [crd])


def test_rotations_have_to_be_there_for_those_that_compare_them() -> None:
    sskd = built("sskd", stage="together")
    with pytest.raises(UserError, match=r"method 'sskd' compares rotated copies of each image; set data.copies=rot"):
        check_pairing(pairing(), [sskd])
