"""Several teachers of a recipe, each with banks of its own beside those of the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy.core.image_size import ImageSize
from understudy.recipes.schema import Recipe

__all__ = ["FURTHER", "bank_path", "beside_key", "heads_of", "recipe_alone"]

FURTHER = "also"  # holds a folder with banks for every head that learns from a teacher of its own


def heads_of(recipe: Recipe) -> tuple[str | None, ...]:
    """The heads that have a teacher of their own, behind None, which is the first one's."""
    return (None,) if recipe.teacher is None else (None, *recipe.teacher.also)


def bank_path(path: str, head: str | None) -> str:
    """Where the banks of a head's teacher lie below the path that people name; each is a bank by itself."""
    return path if head is None else f"{path}/{FURTHER}/{head}"


def recipe_alone(recipe: Recipe, head: str | None) -> Recipe:
    """The recipe with the teacher of one head and its banks, and no other."""
    teacher, bank = recipe.teacher, recipe.bank
    assert teacher is not None, "a recipe with a bank has a teacher"
    if not teacher.also:
        return recipe
    if bank is not None:
        bank = bank.model_copy(update={"path": bank_path(bank.path, head), "key": None})
    return recipe.model_copy(update={"teacher": teacher.only(head), "bank": bank})


def beside_key(recipe: Recipe, head: str | None, *, shown: ImageSize, image_size: ImageSize) -> Mapping[str, Any]:
    """What the outputs of a head's teacher depend on, beside its own settings, where it stands beside others.

    Args:
        recipe: with all its teachers.
        head: whose teacher it is; None: the first, which depends on no other.
        shown: size of the images that all of them see, which the first one chose.
        image_size: of the student's images.
    """
    teacher = recipe.teacher
    if teacher is None or head is None:
        return {}
    found: dict[str, Any] = {} if shown == image_size else {"shown": shown}
    if teacher.also[head].weights == "none":  # drawn after those of the teachers before it
        names = list(teacher.also)
        before = [teacher.only(name) for name in (None, *names[: names.index(head)])]
        found["drawn_after"] = [[each.model, each.kwargs] for each in before]
    return found
