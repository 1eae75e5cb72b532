"""From a shipped recipe to its run: the folder its data want, its teacher, and the exact commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from understudy.recipes.loading import ASSUMED, read_shipped, recipe_names
from understudy.recipes.schema import Recipe

__all__ = ["PUBLISHED_WEIGHTS", "first_steps", "is_published"]

PUBLISHED_WEIGHTS = "weights/"  # begins the teacher's weights where a table took somebody's checkpoint

# What data.root is to hold, by the folder of the data set's recipes: as it is distributed.
LAYOUTS = {
    "classification/cifar100": (
        "FOLDER/cifar-100-python/{train,test,meta}, as torchvision stores it",
        "python -c \"from torchvision.datasets import CIFAR100; CIFAR100('FOLDER', download=True)\"",
    ),
    "classification/cifar10": (
        "FOLDER/{train,test}.parquet with columns image and label, or FOLDER/cifar-10-batches-py as torchvision has it",
        "python -c \"from torchvision.datasets import CIFAR10; CIFAR10('FOLDER', download=True)\"",
    ),
    "classification/tiny-imagenet": (
        "FOLDER/{wnids.txt,words.txt,train/WNID/images,val/images,val/val_annotations.txt}, as CS231N packed it",
        None,
    ),
    "classification/imagenet": (
        "FOLDER/{train,val}/WNID/*.JPEG, or the ILSVRC archive as it unpacks (ILSVRC/Data/CLS-LOC and its CSV files)",
        None,
    ),
}


def is_published(recipe: Recipe) -> bool:
    """Whether its teacher's weights are a checkpoint of the papers, by the name that the shipped recipes give it."""
    weights = None if recipe.teacher is None or recipe.bank is not None else recipe.teacher.weights
    return weights is not None and weights.startswith(PUBLISHED_WEIGHTS)


def first_steps(recipe: Recipe) -> list[str]:
    """Lines to read before a shipped recipe is run, commands among them; none of a recipe that is not shipped."""
    name, data = recipe.origin.recipe, recipe.origin.data
    if name is None or data is None or name not in recipe_names():
        return []
    return [*_layout(data), *_commands(recipe, name.removeprefix(ASSUMED), data)]


def _layout(data: str) -> Iterator[str]:
    holds, fetch = LAYOUTS.get(data, (None, None))
    if holds is not None:
        yield f"data.root (FOLDER below) is to hold {holds}"
    if fetch is not None:
        yield f"  {fetch}"


def _commands(recipe: Recipe, name: str, data: str) -> Iterator[str]:
    """The run itself; of a published teacher three ways to it."""
    start = ["understudy", "compare" if recipe.rows else "train", name]
    folder = ["data.root=FOLDER"] if data in LAYOUTS else []
    teacher = recipe.teacher
    if teacher is None or not is_published(recipe):
        yield "to see what it would cost, then to run it:"
        yield f"  {shlex.join(['understudy', 'check', name, *folder])}"
        yield f"  {shlex.join([*start, *folder])}"
        return
    yield "with the checkpoint that the table used (docs/teachers.md says whose it is), as it was published:"
    yield f"  {shlex.join([*start, *folder, 'teacher.weights=FILE'])}"
    if (own := _teacher_recipe(teacher.model, data)) is not None:
        out = f"runs/teachers/{own.rpartition('/')[2]}"
        yield "or with a teacher that is trained here first, by the shipped recipe, for any number of students:"
        yield f"  {shlex.join(['understudy', 'train', own, *folder, '--out', out])}"
        yield f"  {shlex.join([*start, *folder, '--teacher-weights', out])}"
    yield "or all in one command:"
    yield f"  {shlex.join([*start, *folder, 'teacher.weights=none', f'teacher.train_epochs={recipe.epochs}'])}"
    yield "`understudy check` with the same words says what each would cost"


def _teacher_recipe(model: str, data: str) -> str | None:
    """The shipped recipe that trains this very network alone, by its short name."""
    name = f"{data}/teachers/{model.partition(':')[2].partition('.')[0]}"
    if name not in recipe_names() or read_shipped(name)["student"]["model"] != model:
        return None
    return name.removeprefix(ASSUMED)
