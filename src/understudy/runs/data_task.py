"""The task of a run, by its recipe and its data."""

from __future__ import annotations

from understudy.data import DataConfig, DataSplits, open_data
from understudy.data.sources.box_formats import with_box_format
from understudy.data.sources.detect import task_at
from understudy.data.sources.masked import pixels_of_classes
from understudy.data.sources.panoptic import with_mask_format
from understudy.data.sources.readers import AUTO
from understudy.recipes.schema import Recipe
from understudy.tasks import TASKS, Task
from understudy.tasks.base import ClassWeights
from understudy.tasks.class_weights import balanced_by_pixels
from understudy.utils.errors import UserError
from understudy.utils.untrusted import given_path

__all__ = ["open_data_of", "refuse_other_task", "refuse_root_of_other_task", "task_of", "with_task_of"]

_HAVE = {"classification": "one class an image", "segmentation": "masks", "detection": "boxes"}
_FORMS = {
    "segmentation": "a folder with images/ and masks/, or data.root=images=FOLDER,masks=FOLDER",
    "detection": "a folder with COCO's json, VOC's Annotations or a data.yaml of YOLO's, or data.root=boxes-of-shapes",
}
_KNOWS = {"classification": "whole images", "segmentation": "pixels", "detection": "boxes"}


def open_data_of(recipe: Recipe) -> DataSplits:
    """The data of a recipe; of a folder that has masks and boxes, what its task is about.

    Raises:
        UserError: as `open_data`; of a folder in no form that the task could be learnt from, which forms these are.
    """
    config = _config_of(recipe)
    try:
        return open_data(config)
    except UserError:
        is_taken_for_classes = config.format == AUTO and task_at(config) == "classification"
        if recipe.task in _FORMS and is_taken_for_classes and given_path(config.root, what="data.root").is_dir():
            raise UserError(
                f"data.root: {config.root} has no {_HAVE[recipe.task]}, which {recipe.task} is about; give "
                f"{_FORMS[recipe.task]}"
            ) from None
        raise


def refuse_root_of_other_task(recipe: Recipe) -> None:
    """Refuse a folder whose form says that it is not for the recipe's task, before it is opened.

    Raises:
        UserError: as `refuse_other_task`.
    """
    found = task_at(_config_of(recipe))
    if found not in (recipe.task, "classification"):  # which is what forms that say nothing are taken for
        raise _other_task(recipe, recipe.data.root, found)


def _config_of(recipe: Recipe) -> DataConfig:
    if recipe.task == "detection":
        return with_box_format(recipe.data)
    return with_mask_format(recipe.data) if recipe.task == "segmentation" else recipe.data


def with_task_of(recipe: Recipe, data: DataSplits) -> Recipe:
    """The recipe with the task that its data are for.

    Raises:
        UserError: the recipe's task cannot be learnt from them.
    """
    if data.have_boxes:
        _refuse_beside_boxes(recipe, data)
        return recipe.model_copy(update={"task": "detection"})
    if recipe.task == "detection":
        raise UserError(f"task: detection learns from boxes, and {data.name} has none; give {_FORMS['detection']}")
    if data.window is not None:
        if recipe.teacher is not None and recipe.teacher.classes is not None:
            raise UserError("teacher.classes: is of classifiers; a segmenter that teaches has the data's own classes")
        return recipe.model_copy(update={"task": "segmentation"})
    if recipe.task == "segmentation":
        raise UserError(
            f"task: segmentation learns from masks, and {data.name} has one class an image; give "
            f"{_FORMS['segmentation']}"
        )
    return recipe


def refuse_other_task(recipe: Recipe, data: DataSplits) -> None:
    """Refuse data that a student of the recipe's task cannot be measured on.

    Raises:
        UserError: saying what they have and what is wanted.
    """
    found = "detection" if data.have_boxes else "classification" if data.window is None else "segmentation"
    if found != recipe.task:
        raise _other_task(recipe, data.name, found)


def _other_task(recipe: Recipe, name: str, found: str) -> UserError:
    return UserError(
        f"{name} has {_HAVE[found]}, and this student tells classes of {_KNOWS[recipe.task]}; give data with "
        f"{_HAVE[recipe.task]}"
    )


def _refuse_beside_boxes(recipe: Recipe, data: DataSplits) -> None:
    if recipe.task == "segmentation":
        raise UserError(f"task: segmentation learns from masks, and {data.name} has boxes; take task: detection")
    if recipe.teacher is not None and recipe.teacher.classes is not None:
        raise UserError("teacher.classes: is of classifiers; a detector that teaches has the data's own classes")


def task_of(recipe: Recipe, data: DataSplits) -> Task:
    """The task of a recipe on its data; of masks, `class_weights: balanced` reads every one of train.

    Raises:
        UserError: weights that cannot be.
    """
    class_weights: ClassWeights = recipe.class_weights
    if class_weights == "balanced" and recipe.task == "segmentation":
        class_weights = balanced_by_pixels(pixels_of_classes(data.train, len(data.classes))).tolist()
    return TASKS[recipe.task].for_data(
        len(data.classes),
        data.train.labels,
        label_smoothing=recipe.label_smoothing,
        class_weights=class_weights,
        **recipe.task_settings,
    )
