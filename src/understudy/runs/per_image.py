"""What a finished seed knows of every single image it was evaluated on, beside the predicted classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from understudy.core.batch import Batch
from understudy.tasks import Classification, Evaluation
from understudy.tasks.class_certainty import Certainties, certainty_of_images
from understudy.tasks.class_evaluation import ClassEvaluation
from understudy.training.trainer import Trainer

__all__ = ["per_image_tensors"]


def per_image_tensors(
    trainer: Trainer,
    batches: Iterable[Batch],
    found: Mapping[str, Evaluation],
    *,
    split: str,
    seed: int,
    asks_teacher: bool,
) -> dict[str, Tensor]:
    """How sure students and teacher are of each image of a split, in one more pass over it; for all processes.

    Args:
        trainer: of the seed, with the weights that are deployed.
        batches: of the split.
        found: evaluations of the same students on it, by row.
        split: "val" or "test".
        seed: of the trainer.
        asks_teacher: whether its teacher looks at images and names the same classes.

    Returns:
        (N,) by the key of predictions.safetensors, in the order of the evaluations: "index/SPLIT", places in the
        split; "confidence/SPLIT/ROW/SEED", "label_probability/..." and "kl/...", and of "teacher" the first two.
        Empty of tasks whose predictions are no classes.
    """
    if not isinstance(trainer.students[0].task, Classification):
        return {}
    for student in trainer.students:
        student.train(False)
    students = {
        student.name: predict
        for student in trainer.students
        for kind, predict in student.predictors()
        if kind == "deployed"
    }
    teacher = trainer.teacher if asks_teacher else None
    seen = certainty_of_images(
        students,
        batches,
        trainer.device,
        trainer.world,
        teacher=None if teacher is None else lambda batch: teacher.observe(batch).output,
    )
    if not _is_of_the_same_images(seen, found):
        return {}
    tensors = {} if seen.indices is None else {f"index/{split}": seen.indices}
    tensors |= {f"{what}/{split}/teacher": values for what, values in seen.teacher.items()}
    for name, of_model in seen.by_model.items():
        tensors |= {f"{what}/{split}/{name}/{seed}": values for what, values in of_model.items()}
    return tensors


def _is_of_the_same_images(seen: Certainties[str], found: Mapping[str, Evaluation]) -> bool:
    """Whether this pass met the images that the evaluations kept; a file may have gone in between."""
    kept = [one.labels for one in found.values() if isinstance(one, ClassEvaluation)]
    return len(kept) == len(found) and all(torch.equal(labels, seen.labels.to(labels)) for labels in kept)
