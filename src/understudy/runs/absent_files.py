"""What a recipe names and is not there: all of it in one message, with what to do."""

from __future__ import annotations

from collections.abc import Iterator

from understudy.data.sources.detect import refuse_absent_root
from understudy.models.names import split_name
from understudy.models.weight_files import weights_file
from understudy.recipes.schema import Recipe
from understudy.utils.errors import UserError

__all__ = ["refuse_absent_files"]

WHERE = "docs/teachers.md"  # says of every weights/... of the shipped recipes which public checkpoint it is


def refuse_absent_files(recipe: Recipe) -> None:
    """Refuse misspelt models and files that are not there, before any image is read.

    Raises:
        UserError: the problem where there is one, a list where there are several.
    """
    for settings in (recipe.student, recipe.teacher if recipe.bank is None else None):
        if settings is not None:
            split_name(settings.model)
    lacking = list(_lacking(recipe))
    if len(lacking) == 1:
        raise UserError(lacking[0])
    if lacking:
        raise UserError("\n  ".join([f"this recipe needs {len(lacking)} things that are not here:", *lacking]))


def _lacking(recipe: Recipe) -> Iterator[str]:
    try:
        refuse_absent_root(recipe.data)
    except UserError as error:
        guesses = str(error).endswith("?")
        yield f"{error}{'' if guesses else '; set data.root=FOLDER (--data FOLDER) to where these images are'}"
    for role, settings in (("student", recipe.student), ("teacher", None if recipe.bank else recipe.teacher)):
        if settings is None or settings.weights in (None, "pretrained", "none"):
            continue
        try:
            weights_file(settings.weights)
        except UserError as error:
            is_published = role == "teacher" and settings.weights.startswith("weights/")
            yield f"{role} {error}{_way_out(recipe) if is_published else ''}"


def _way_out(recipe: Recipe) -> str:
    """For a recipe whose teacher was published by others."""
    return (
        f". {WHERE} says which public checkpoint it is: set teacher.weights=FILE to where you have it, or train one "
        f"first with teacher.weights=none teacher.train_epochs={recipe.epochs}"
    )
