"""What a bank keeps of the teacher itself, for runs that never build it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from understudy.runs.collect import model_facts
from understudy.runs.components import Parts
from understudy.tasks import Evaluation
from understudy.teachers import LiveTeacher
from understudy.teachers.bank.store import TeacherFacts
from understudy.teachers.bank.teacher import teacher_tensors
from understudy.utils.hashing import fingerprint

__all__ = ["stored_with", "teacher_facts"]


def teacher_facts(parts: Parts, scores: Mapping[str, Evaluation]) -> TeacherFacts:
    """What a run without the teacher's network wants to know of it."""
    network, teacher = parts.teacher_network, parts.teacher
    assert network is not None
    assert teacher is not None
    known = {
        **model_facts(network, parts.teacher_size or parts.image_size),
        "fingerprint": fingerprint(network.module.state_dict()),
        "mean": network.mean,
        "std": network.std,
        "resized_to": network.prepare.size,
        "scores": {split: evaluation.scores() for split, evaluation in scores.items()},
        "classifier": _kind(_last_layer(teacher)),
        "norms": {tap: norm.eps for tap, norm in teacher.model.norms().items()},
    }
    return TeacherFacts.read(known, what="what is known of this teacher")


def stored_with(parts: Parts, scores: Mapping[str, Evaluation]) -> dict[str, Tensor]:
    """Its last layer, the norms behind its taps, and what it predicts on the images that students are scored on."""
    teacher = parts.teacher
    assert teacher is not None
    last = _last_layer(teacher)
    tensors = teacher_tensors(last if _kind(last) else None, teacher.model.norms())
    for split, evaluation in scores.items():
        tensors |= {f"{split}.predictions": evaluation.predictions, f"{split}.labels": evaluation.labels}
    return tensors


def _last_layer(teacher: LiveTeacher) -> nn.Module | None:
    path = teacher.model.classifier
    return teacher.model.module.get_submodule(path) if path else None


def _kind(classifier: nn.Module | None) -> str | None:
    """What a bank can store of a last layer: an affine one, which is all that methods read."""
    if isinstance(classifier, nn.Linear):
        return "linear"
    is_pointwise = isinstance(classifier, nn.Conv2d) and classifier.kernel_size == (1, 1) and classifier.groups == 1
    return "convolution" if is_pointwise else None
