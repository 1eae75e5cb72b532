"""A few validation images with the masks that people look at: the truth, the teacher's, each row's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from understudy.core.batch import Batch
from understudy.data import eval_loader
from understudy.data.sources.base import rows_of
from understudy.runs.components import Components
from understudy.tasks import Segmentation
from understudy.tasks.base import Predictor
from understudy.tasks.pixel_views import classes_at_size
from understudy.teachers.base import Teacher
from understudy.training.trainer import Trainer

__all__ = ["example_masks"]

COUNT = 4
LONGEST = 160  # pixels of what is kept


def example_masks(components: Components, trainer: Trainer) -> dict[str, Tensor]:
    """Evenly spread validation images and their masks, small, by key: examples/image/0, examples/truth/0, ...

    Nothing of a task that has no masks. Masks of rows are examples/row/ROW/0, the teacher's examples/teacher/0.
    """
    if not isinstance(components.task, Segmentation):
        return {}
    count = len(components.data.val)
    places = sorted({number * (count - 1) // max(1, COUNT - 1) for number in range(COUNT)})
    settings = components.recipe.data.model_copy(update={"eval_batch_size": 1, "workers": 0})
    some = rows_of(components.data.val, torch.tensor(places))
    kept: dict[str, Tensor] = {}
    with torch.no_grad():
        for number, batch in enumerate(eval_loader(some, settings, image_size=components.image_size)):
            kept |= {f"examples/{key}/{number}": value for key, value in _of(batch, components, trainer).items()}
    return kept


def _of(batch: Batch, components: Components, trainer: Trainer) -> Mapping[str, Tensor]:
    """Of one image, all uint8: (3,h,w) and (h,w)."""
    height, width = batch.images.shape[2:]
    scale = min(1.0, LONGEST / max(height, width))
    size = [max(1, round(side * scale)) for side in (height, width)]
    small = resize(batch.images.cpu(), size, antialias=True)[0]
    truth = resize(batch.targets.cpu()[None], size, interpolation=0)[0, 0]
    here = batch.to(components.device)
    predictors: dict[str, Predictor] = {f"row/{student.name}": student.predict for student in trainer.students}
    if trainer.teacher is not None and trainer.teacher.looks_at_images and components.teacher_shares_classes:
        predictors["teacher"] = partial(_observed, trainer.teacher)
    assert isinstance(components.task, Segmentation)
    masks = {}
    for name, predict in predictors.items():
        logits = components.task.logits(predict, here)
        said = classes_at_size(logits, size, align_corners=components.task.settings.align_corners)
        masks[name] = said[0].to(torch.uint8).cpu()
    return {"image": (255 * small).round().to(torch.uint8), "truth": truth.to(torch.uint8), **masks}


def _observed(teacher: Teacher, batch: Batch) -> Any:
    return teacher.observe(batch).output
