"""What a bank keeps of the teacher itself, for runs that never build it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from understudy.runs.components import Components
from understudy.tasks import Evaluation
from understudy.teachers.bank.store import TeacherFacts
from understudy.teachers.bank.teacher import teacher_tensors
from understudy.utils.hashing import fingerprint

__all__ = ["stored_with", "teacher_facts"]


def teacher_facts(components: Components, scores: Mapping[str, Evaluation]) -> TeacherFacts:
    """What a run without the teacher's network wants to know of it."""
    network, shapes = components.teacher_network, components.shown_teacher.shapes(components.teacher_sample)
    assert network is not None
    known = {
        **components.shown_teacher.facts(),
        "fingerprint": fingerprint(network.module.state_dict()),
        "mean": network.mean,
        "std": network.std,
        "resized_to": network.prepare.size,
        "scores": {split: dict(evaluation.scores) for split, evaluation in scores.items()},
        "classifier": _kind(shapes.classifier),
        "norms": {tap: norm.eps for tap, norm in shapes.norms.items()},
    }
    return TeacherFacts.read(known, what="what is known of this teacher")


def stored_with(components: Components, scores: Mapping[str, Evaluation]) -> dict[str, Tensor]:
    """Its last layer, the norms behind its taps, and what its evaluations keep of the images students are scored on."""
    shapes = components.shown_teacher.shapes(components.teacher_sample)
    tensors = teacher_tensors(shapes.classifier if _kind(shapes.classifier) else None, shapes.norms)
    for split, evaluation in scores.items():
        tensors |= {f"{split}.{name}": kept.contiguous() for name, kept in evaluation.tensors().items()}
    return tensors


def _kind(classifier: nn.Module | None) -> str | None:
    """What a bank can store of a last layer: an affine one, which is all that methods read."""
    if isinstance(classifier, nn.Linear):
        return "linear"
    is_pointwise = isinstance(classifier, nn.Conv2d) and classifier.kernel_size == (1, 1) and classifier.groups == 1
    return "convolution" if is_pointwise else None
