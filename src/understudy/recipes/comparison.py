"""Variants: the rows of a comparison, each named by what it distils."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, SerializeAsAny

from understudy.core.config import Config
from understudy.core.published import Published
from understudy.methods import METHODS, MethodConfig
from understudy.methods.combination import default_task_weight, refuse_without_streams, row_name_of
from understudy.optim import DEFAULT_UPDATE, UPDATES, UpdateConfig, row_suffix, update_of_row, word_in_row
from understudy.recipes.layers import merged, settings_alone
from understudy.recipes.method_settings import NO_METHOD, method_config
from understudy.recipes.row_settings import RowSettings
from understudy.recipes.row_sources import RowSource, data_defaults, shipped_row
from understudy.recipes.schema import Recipe
from understudy.utils.errors import UserError

__all__ = ["Variant", "row_named", "rows_of", "written_out"]

ITS_OWN = "this recipe"


class Variant(Config):
    """One line of a comparison: what is distilled, with which weights, by which update."""

    name: str
    method: tuple[SerializeAsAny[MethodConfig], ...]
    task_weight: float
    update: SerializeAsAny[UpdateConfig]
    settings_from: str = ITS_OWN  # in words: which recipe, whose defaults
    varied: dict[str, Any] = Field(default_factory=dict)  # by key: what a sweep varies, and its value here
    published: tuple[Published, ...] = ()  # what papers report for it


def rows_of(recipe: Recipe) -> list[Variant]:
    """The rows to run: those that `rows` names, else the recipe's own method and update.

    Raises:
        UserError: a row that cannot be, or two of one name.
    """
    if recipe.rows:
        rows = [row_named(recipe, row) if isinstance(row, str) else _row_written(recipe, row) for row in recipe.rows]
        names = [row.name.casefold() for row in rows]  # they are folders, and some disks do not tell A from a
        doubled = [row.name for row in rows if names.count(row.name.casefold()) > 1]
        if doubled:
            raise UserError(
                f"rows names {doubled[0]!r} twice; one that differs has a name of its own: {{name: NAME, method: ...}}"
            )
        return rows
    update = update_of_row(recipe.update, distils=bool(recipe.method))
    name = row_name_of(recipe.method, row_suffix(recipe.update, distils=bool(recipe.method)))
    row = _row(recipe, name, recipe.method, update=update, task_weight=recipe.task_weight)
    return [row.model_copy(update={"published": recipe.published})]


def row_named(recipe: Recipe, name: str) -> Variant:
    """The row that `name` stands for: method names joined by "+", and an update's, such as dot.

    Its settings are those of the recipe where it sets them up itself; else of the shipped recipe of the same data and
    pair for this row; else the data set's defaults, where there are any; else the method's own.

    Raises:
        UserError: no such method, several updates, or a shipped recipe that trains on other batches or for another
            time.
    """
    parts = [part.strip() for part in name.split("+")]
    meant = _without_namesakes(parts)
    methods = [part for part, is_update in meant if not is_update and part not in NO_METHOD]
    update = _update_in(name, [part for part, is_update in meant if is_update], distils=bool(methods))
    # The name is a folder's too: written as it is read, without the spaces that may stand around each part.
    name = "+".join(parts)
    is_own = [config.method.name for config in recipe.method] == methods
    if is_own and update == recipe.update.name:
        row = _row(recipe, name, recipe.method, update=update, task_weight=recipe.task_weight)
        return row.model_copy(update={"published": recipe.published})
    found = shipped_row(recipe, methods, update=update, row=name)
    if found is not None:
        return _row_of(found, name, update=update)
    return _row_by_default(recipe, name, methods, update=update, is_own=is_own)


def _without_namesakes(parts: Sequence[str]) -> list[tuple[str, bool]]:
    """Each part of a row's name, and whether it stands for an update.

    What is a method and an update, as deepkd is, stands for the update at the end of several parts, else for the
    method: deepkd and deepkd+kd have the method alone, dkd+deepkd the update, deepkd+deepkd both.
    """
    last = len(parts) - 1
    return [
        (part, word_in_row(part) and (part not in METHODS or 0 < place == last)) for place, part in enumerate(parts)
    ]


def _update_in(name: str, named: Sequence[str], *, distils: bool) -> str:
    """The update that a row's name asks for; without one, the default."""
    if len(named) > 1:
        raise UserError(f"row {name!r} names the updates {' and '.join(named)}; one of them trains it")
    update = named[0] if named else DEFAULT_UPDATE
    if UPDATES[update].needs_distillation and not distils:
        raise UserError(f"row {name!r}: {update} needs something to distil, such as kd+{update}")
    return update


def written_out(recipe: Recipe) -> Recipe:
    """The recipe with every row's settings in full, so that it means the same whatever recipes are shipped by then."""
    own = {**recipe.update.model_dump(mode="json"), "name": recipe.update.name}
    rows = [_settings_of(row, own) for row in rows_of(recipe)]
    return recipe.with_rows(rows)


def _settings_of(row: Variant, own_update: Mapping[str, Any]) -> RowSettings:
    update = {**row.update.model_dump(mode="json"), "name": row.update.name}
    methods = [{"name": config.method.name, **config.model_dump(mode="json")} for config in row.method]
    said: dict[str, Any] = {
        "name": row.name,
        "method": methods[0] if len(methods) == 1 else methods or "none",
        "task_weight": row.task_weight,
        "update": {key: value for key, value in update.items() if key == "name" or own_update.get(key) != value},
        "settings_from": row.settings_from,
    }
    more = {"varied": row.varied, "published": [source.model_dump() for source in row.published]}
    return RowSettings.read({**said, **{key: value for key, value in more.items() if value}}, what=f"row {row.name!r}")


def _row_of(found: RowSource, name: str, *, update: str) -> Variant:
    row = _row(found.recipe, name, found.recipe.method, update=update, task_weight=found.recipe.task_weight)
    return row.model_copy(update={"settings_from": found.words, "published": found.published})


def _row_by_default(recipe: Recipe, name: str, methods: Sequence[str], *, update: str, is_own: bool) -> Variant:
    """A row that has no recipe: own settings before the data set's defaults, these before the method's."""
    defaults = data_defaults(recipe)
    own = {config.method.name: config for config in recipe.method}
    configs = tuple(own[part] if part in own else _method_config(part, name, defaults.method(part)) for part in methods)
    task_weight = recipe.task_weight if is_own else defaults.task_weight(methods)
    row = _row(recipe, name, configs, update=update, task_weight=task_weight)
    said = defaults.update(methods, update)
    laid = {key: value for key, value in said.items() if not recipe.origin.has_laid(f"update.{key}")}
    if laid:
        moved_by = UPDATES[update].Config.read({**row.update.model_dump(), **laid}, what=f"row {name!r}: update")
        row = row.model_copy(update={"update": moved_by})
    others = [part for part in methods if part not in own]
    from_data = defaults.name if (others and defaults.has(others)) or said else None
    whose = [ITS_OWN] if len(others) < len(methods) or not methods else []
    whose += [f"defaults of {from_data}"] if from_data else ["the method's own defaults"] if others else []
    return row.model_copy(update={"settings_from": ", ".join(whose)})


def _row_written(recipe: Recipe, settings: RowSettings) -> Variant:
    """A row with settings of its own, laid on the recipe's."""
    own = recipe.as_dict()
    method = own["method"][0] if len(own["method"]) == 1 else own["method"]
    base = {**own, "method": method or "none", "rows": [], "published": []}
    changes = settings.changes()
    if "method" in changes and "task_weight" not in changes and not _same_methods(base, changes):
        base["task_weight"] = None
    _refuse_of_another_update(settings, recipe)
    found = Recipe.read(settings_alone(merged(base, changes)), what=f"row {settings.name!r}")
    if settings.name in NO_METHOD and found.method:
        raise UserError(f"row {settings.name!r}: that is the student without a method; give the row another name")
    update = update_of_row(found.update, distils=bool(found.method))
    row = _row(found, settings.name, found.method, update=update, task_weight=found.task_weight)
    varied = {key: _value_at(row, key) for key in settings.varied}
    words = settings.settings_from or ITS_OWN
    return row.model_copy(update={"settings_from": words, "varied": varied, "published": settings.published})


def _refuse_of_another_update(settings: RowSettings, recipe: Recipe) -> None:
    """Say who reads a setting that is varied under an update which has no such one."""
    name = settings.changes().get("update", {}).get("name", recipe.update.name)
    for key in settings.varied:
        setting = key.removeprefix("update.")
        readers = [update for update, kind in UPDATES.items() if setting in kind.Config.model_fields]
        if setting != key and readers and name in UPDATES and name not in readers:
            raise UserError(
                f"row {settings.name!r}: {key} is a setting of update {' and '.join(readers)}, and this recipe's is "
                f"{name}; add update.name={readers[0]}, or take a recipe of it"
            )


def _same_methods(base: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    both = merged(base, changes)["method"], base["method"]
    names = [[item.get("name") for item in (side if isinstance(side, list) else [side]) if isinstance(item, Mapping)]
             for side in both]  # fmt: skip
    return names[0] == names[1]


def _value_at(row: Variant, key: str) -> Any:
    """The value that a row came to, as plain data: a number that YAML took for text is a number here."""
    if key == "task_weight":
        return row.task_weight
    root, _, path = key.partition(".")
    value: Any = row.update.model_dump(mode="json")
    if root == "method":
        methods = [{"name": config.method.name, **config.model_dump(mode="json")} for config in row.method]
        value = methods[0] if len(methods) == 1 else None
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _row(
    recipe: Recipe, name: str, methods: tuple[MethodConfig, ...], *, update: str, task_weight: float | None
) -> Variant:
    if not methods:
        task_weight = 1.0
    elif task_weight is None:
        task_weight = default_task_weight(methods)
    moved_by = recipe.update if recipe.update.name == update else _translated(recipe.update, update)
    refuse_without_streams(methods, UPDATES[update].needs_streams, update=update)
    return Variant(name=name, method=methods, task_weight=task_weight, update=moved_by)


def _translated(update: UpdateConfig, name: str) -> UpdateConfig:
    """Another update with the settings that both have in common."""
    other = UPDATES[name].Config
    shared = {key: value for key, value in update.model_dump().items() if key in UpdateConfig.model_fields}
    return other.read({**shared, "name": name}, what=f"update {name}")


def _method_config(name: str, row: str, settings: Mapping[str, Any]) -> MethodConfig:
    try:
        return method_config({**settings, "name": name})
    except ValueError as error:
        raise UserError(f"row {row!r}: method {error}") from None
