"""Rows: what a recipe compares, each named by what it distils."""

from __future__ import annotations

from pydantic import SerializeAsAny

from understudy.config import Config, UserError
from understudy.methods import MethodConfig
from understudy.recipe import ALONE, Recipe, method_config
from understudy.spec import default_task_weight, row_name_of
from understudy.updates import UPDATES, UpdateConfig

__all__ = ["Row", "row_named", "rows_of"]


class Row(Config):
    """One line of a comparison: what is distilled, with which weights, by which update."""

    name: str
    method: tuple[SerializeAsAny[MethodConfig], ...]
    task_weight: float
    update: SerializeAsAny[UpdateConfig]


def rows_of(recipe: Recipe) -> list[Row]:
    """The rows to run: those that `rows` names, else the recipe's own method and update."""
    if recipe.rows:
        doubled = {row for row in recipe.rows if recipe.rows.count(row) > 1}
        if doubled:
            raise UserError(f"rows names {sorted(doubled)[0]!r} twice")
        return [row_named(recipe, name) for name in recipe.rows]
    is_dot = recipe.update.name == "dot" and bool(recipe.method)
    name = row_name_of(recipe.method, recipe.update)
    return [_row(recipe, name, recipe.method, is_dot=is_dot, task_weight=recipe.task_weight)]


def row_named(recipe: Recipe, name: str) -> Row:
    """The row that `name` stands for: method names joined by "+", and "dot" for that update.

    A method that the recipe sets up keeps the recipe's settings; any other brings its own defaults.
    """
    parts = [part.strip() for part in name.split("+")]
    is_dot = "dot" in parts
    methods = [part for part in parts if part != "dot" and part not in ALONE]
    if is_dot and not methods:
        raise UserError(f"row {name!r}: dot needs something to distil, such as kd+dot")
    own = {config.method.name: config for config in recipe.method}
    configs = tuple(own[part] if part in own else _method_config_or_error(part, name) for part in methods)
    is_own = [config.method.name for config in recipe.method] == methods
    # The name is a folder's too: written as it is read, without the spaces that may stand around each part.
    return _row(recipe, "+".join(parts), configs, is_dot=is_dot, task_weight=recipe.task_weight if is_own else None)


def _row(
    recipe: Recipe, name: str, methods: tuple[MethodConfig, ...], *, is_dot: bool, task_weight: float | None
) -> Row:
    if not methods:
        task_weight = 1.0
    elif task_weight is None:
        task_weight = default_task_weight(methods)
    wanted = "dot" if is_dot else "joint"
    update = recipe.update if recipe.update.name == wanted else _translated(recipe.update, wanted)
    return Row(name=name, method=methods, task_weight=task_weight, update=update)


def _translated(update: UpdateConfig, name: str) -> UpdateConfig:
    """Another update with the settings that both have in common."""
    other = UPDATES[name].Config
    shared = {key: value for key, value in update.model_dump().items() if key in UpdateConfig.model_fields}
    return other.read({**shared, "name": name}, what=f"update {name}")


def _method_config_or_error(name: str, row: str) -> MethodConfig:
    try:
        return method_config(name)
    except ValueError as error:
        raise UserError(f"row {row!r}: method {error}") from None
