"""A teacher that was forgotten on the command line: asked for, where the student would else be trained alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from understudy.utils.errors import UserError

if TYPE_CHECKING:
    from understudy.cli.options import RecipeOptions
    from understudy.recipes.schema import Recipe

__all__ = ["ask_for_a_teacher", "names_a_teacher"]

WAYS_OUT = (
    "give --teacher MODEL (such as timm:resnet34; --train-teacher N fine-tunes it first), or --method alone "
    "(for compare: --rows alone) to train the student without one"
)


def names_a_teacher(settings: Mapping[str, Any], typed: RecipeOptions, overrides: Sequence[str]) -> bool:
    """Whether what was typed without a recipe says whom the student learns from, or that it learns alone.

    Args:
        settings: what options amount to.
        typed: these options.
        overrides: key=value.

    Raises:
        UserError: a method was typed that cannot do without a teacher, and there is none.
    """
    keys = {override.partition("=")[0].split(".")[0] for override in overrides}
    if {"teacher", "bank"} & {*settings, *keys} or {"method", "rows"} & keys:
        return True
    methods = [*_names(typed.method), *(name for row in _rows(typed.rows) for name in _names(row))]
    if learning := _learning(methods):
        raise UserError(f"{', '.join(learning)}: there is no teacher to learn from; {WAYS_OUT}")
    return bool(methods)


def ask_for_a_teacher(recipe: Recipe) -> None:
    """Refuse to train the student alone where nobody asked for that; of a misspelt name or path it is spoken first.

    Raises:
        UserError: always, with both ways out.
    """
    from understudy.models.names import split_name
    from understudy.runs.absent_files import refuse_absent_files

    split_name(recipe.student.model)
    refuse_absent_files(recipe)
    raise UserError(f"whom should the student learn from? There is no teacher: {WAYS_OUT}")


def _rows(text: str | None) -> list[str]:
    return [] if text is None else text.split(",")


def _names(text: str | None) -> list[str]:
    return [] if text is None else [name.strip() for name in text.split("+")]


def _learning(names: Sequence[str]) -> list[str]:
    """Those of the methods that cannot do without a teacher; others' names are spoken of elsewhere."""
    from understudy.methods import METHODS

    known = {name: METHODS[name] for name in names if name in METHODS}
    return [name for name, method in known.items() if method.needs_teacher(method.Config())]
