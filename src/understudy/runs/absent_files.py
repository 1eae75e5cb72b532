"""What a recipe names and is not there: all of it in one message, with what to do."""

from __future__ import annotations

from collections.abc import Iterator

from understudy.data.sources.detect import refuse_absent_root
from understudy.models.names import split_name
from understudy.models.weight_files import weights_file
from understudy.recipes.further_teachers import FurtherTeacher
from understudy.recipes.schema import Recipe, StudentConfig, TeacherConfig
from understudy.runs.first_steps import first_steps, is_published
from understudy.utils.errors import UserError
from understudy.utils.text import plural

__all__ = ["absent_files", "refuse_absent_files"]

WHERE = "docs/teachers.md"  # says of every weights/... of the shipped recipes which public checkpoint it is


def refuse_absent_files(recipe: Recipe) -> None:
    """Refuse misspelt models and files that are not there, before any image is read.

    Raises:
        UserError: the problem where there is one, a list where there are several.
    """
    for _, settings in _networks(recipe):
        split_name(settings.model)
    lacking, steps = list(absent_files(recipe)), first_steps(recipe)
    if lacking and (steps or len(lacking) > 1):
        lacks = (
            f"this recipe needs {plural(len(lacking), 'thing')} that {'is' if len(lacking) == 1 else 'are'} not here:"
        )
        raise UserError("\n  ".join([lacks, *lacking]) + "".join(f"\n{step}" for step in steps))
    if lacking:
        raise UserError(lacking[0])


def absent_files(recipe: Recipe) -> Iterator[str]:
    """A sentence for each folder or file that the recipe names and that is not there."""
    try:
        refuse_absent_root(recipe.data)
    except UserError as error:
        guesses = str(error).endswith("?")
        yield f"{error}{'' if guesses else '; set data.root=FOLDER (--data FOLDER) to where these images are'}"
    for role, settings in _networks(recipe):
        if settings.weights in (None, "pretrained", "none"):
            continue
        try:
            weights_file(settings.weights)
        except UserError as error:
            yield f"{role} {error}{_way_out(recipe) if role == 'teacher' and is_published(recipe) else ''}"


def _networks(recipe: Recipe) -> Iterator[tuple[str, StudentConfig | TeacherConfig | FurtherTeacher]]:
    """What is built, by its role."""
    yield "student", recipe.student
    if recipe.teacher is not None and recipe.bank is None:
        yield "teacher", recipe.teacher
        yield from ((f"teacher of {head}", further) for head, further in recipe.teacher.also.items())


def _way_out(recipe: Recipe) -> str:
    """For a recipe whose teacher was published by others."""
    return (
        f". {WHERE} says which public checkpoint it is: set teacher.weights=FILE to where you have it, or train one "
        f"first with teacher.weights=none teacher.train_epochs={recipe.epochs}"
    )
