"""What is checked once, at the border: the first Pairing that a student's methods are given."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from understudy.config import UserError
from understudy.methods.base import Method, Need
from understudy.probabilities import are_probabilities
from understudy.step import Pairing

__all__ = ["check_pairing"]


def check_pairing(pairing: Pairing, methods: Iterable[Method]) -> None:
    """Refuse what the methods could not make sense of; inside them, a Pairing is trusted.

    Reads values back from the device, so it is called for the first batch only.

    Raises:
        UserError: naming what is wrong, the method that needs it otherwise, and the way out.
    """
    _check_labels(pairing)
    if are_probabilities(pairing.student_logits):
        raise UserError(
            "the student ends in a softmax: it gives probabilities where the losses expect logits, and would learn "
            "next to nothing; leave the softmax out of its forward, and take it of what the trained network gives"
        )
    for method in methods:
        for need in sorted(method.needs_for(method.config)):
            _check_need(pairing, method.name, need)
        _check_features(pairing, method.name)


def _check_labels(pairing: Pairing) -> None:
    num_classes, labels = pairing.student_logits.shape[1], pairing.labels
    if labels.ndim == 2:
        if labels.shape[1] != num_classes:
            raise UserError(f"mixed labels have {labels.shape[1]} classes, but the student has {num_classes}")
        return
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < -1 or highest >= num_classes:
        wrong = lowest if lowest < -1 else highest
        raise UserError(
            f"label {wrong} is outside the student's classes 0..{num_classes - 1}; give the student as many classes "
            "as the data has (-1 marks an image without a label)"
        )


def _check_need(pairing: Pairing, method: str, need: Need) -> None:
    if need == "teacher_logits" and pairing.teacher_logits is None:
        raise UserError(f"method {method!r} reads the teacher's logits, and there is no teacher")
    if need == "indices" and pairing.indices is None:
        raise UserError(
            f"method {method!r} keeps a memory of the training samples, but this loader of (images, labels) does not "
            "say which samples are in a batch; use understudy.distill, or a loader of Batch(indices=...)"
        )
    if need == "copies" and pairing.copies is None:
        raise UserError(f"method {method!r} compares rotated copies of each image; set data.copies=rotations")
    if need == "hard_labels" and pairing.labels.ndim == 2:
        raise UserError(f"method {method!r} needs one class for each image, but labels are mixed here; turn Mixup off")


def _check_features(pairing: Pairing, method: str) -> None:
    rows = len(pairing.student_logits)
    sides = {"student": pairing.student_features, "teacher": pairing.teacher_features}
    for side, features in sides.items():
        for tap, feature in features.items():
            if len(feature) != rows:
                raise UserError(
                    f"method {method!r}: the {side}'s {tap!r} has {len(feature)} rows in a batch of {rows}; tap a "
                    "module whose output keeps the batch as its first axis"
                )
    seen: dict[str, Tensor] = dict(pairing.teacher_features)
    if pairing.teacher_logits is not None:
        seen["logits"] = pairing.teacher_logits
    for tap, feature in seen.items():
        if not bool(feature.isfinite().all()):
            raise UserError(
                f"method {method!r}: the teacher's {tap} is not finite on the first batch; are its weights whole, and "
                "do the images have the range and normalisation it was trained with?"
            )
