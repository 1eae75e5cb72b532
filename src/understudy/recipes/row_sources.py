"""Where a row of a comparison takes its settings from: the shipped recipe of its data and pair, or the data's defaults.

Shipped recipes are called DATA/ROW/PAIR, such as classification/cifar100/kd-dot/resnet32x4-resnet8x4, and those of a
student alone DATA/alone/STUDENT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.core.published import Published
from understudy.optim import DEFAULT_UPDATE, UPDATES, UpdateConfig
from understudy.recipes.layers import WHERE, merged, method_names, settings_alone
from understudy.recipes.loading import ASSUMED, METHODS_FILE, read_shipped, recipe_names, shipped_names
from understudy.recipes.origin import Changed, changed_settings, is_free
from understudy.recipes.schema import Recipe
from understudy.utils.errors import UserError, shortened_repr

__all__ = ["DataDefaults", "RowSource", "data_defaults", "shipped_row"]

A_ROWS_OWN = ("method", "task_weight", "update", "rows", "published")  # everything else its batches come with
# Of what rows share, what may differ between their recipes: each row is trained under the comparison's own.
TOLERATED = ("data.drop_last", "teacher", "student")
MOST_DIFFERENCES = 6


@dataclass(frozen=True)
class RowSource:
    """A shipped recipe as a row: read with what was laid on the comparison's own recipe."""

    recipe: Recipe
    words: str
    published: tuple[Published, ...]


@dataclass(frozen=True)
class DataDefaults:
    """What rows without a recipe of their own get on a data set: methods.yaml beside its recipes, else its task's.

    By method: `method`, its settings; `task_weight`; `update`, with settings that only one update has, such as the
    delta it takes under DOT. By update, for all methods: the same.
    """

    name: str = ""  # 'cifar100', or 'detection'
    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def has(self, methods: Sequence[str]) -> bool:
        """Whether it says something of one of these."""
        return any(name in self.entries for name in methods)

    def method(self, name: str) -> Mapping[str, Any]:
        """Settings of a method; none where the method's own defaults are right."""
        settings: Mapping[str, Any] = self.entries.get(name, {}).get("method", {})
        return settings

    def task_weight(self, methods: Sequence[str]) -> float | None:
        """Beside these methods; the first one's, as everywhere."""
        return self.entries.get(methods[0], {}).get("task_weight") if methods else None

    def update(self, methods: Sequence[str], update: str) -> dict[str, Any]:
        """What an update has of its own, with these methods: the first one's, else the data set's."""
        own = set(UPDATES[update].Config.model_fields) - set(UpdateConfig.model_fields)
        said = [self.entries.get(name, {}).get("update", {}) for name in (update, *methods[:1])]
        return {key: value for each in said for key, value in each.items() if key in own and value is not None}


def data_defaults(recipe: Recipe) -> DataDefaults:
    """The defaults of the data set that the recipe began with, else of its task; empty ones where it has none."""
    for folder in (recipe.origin.data, recipe.task):
        if folder is not None and f"{folder}/{METHODS_FILE}" in shipped_names():
            settings = settings_alone(read_shipped(f"{folder}/{METHODS_FILE}"))
            return DataDefaults(folder.removeprefix(ASSUMED), settings)
    return DataDefaults()


def shipped_row(recipe: Recipe, methods: Sequence[str], *, update: str, row: str) -> RowSource | None:
    """The recipe of the same data and pair that trains this row, or None where none is shipped.

    Several may: kd, kd-b1 and kd-randaugment are one row under other strategies. The one that is trained as the
    comparison is counts, the plainest name first. For the student alone there need be none.

    Raises:
        UserError: there is one, but it takes other batches, images or epochs than this comparison.
    """
    misfits: list[tuple[str, list[Changed]]] = []
    for name in sorted(_candidates(recipe, methods, update), key=lambda name: (len(name), name)):
        found = _as_here(recipe, name, methods, update)
        differing = _differing(found, recipe)
        apart = [changed for changed in differing if not _may_differ(changed.key)]
        if not apart:
            is_published = not differing and not recipe.origin.changed
            words = f"recipe {name.removeprefix(ASSUMED)}"
            return RowSource(found, words, found.published if is_published else ())
        misfits.append((name, apart))
    if misfits and methods:
        _refuse(row, *min(misfits, key=lambda misfit: len(misfit[1])))
    return None


def _candidates(recipe: Recipe, methods: Sequence[str], update: str) -> Iterator[str]:
    data = recipe.origin.data
    ends = [] if data is None else list(_pairs(recipe, data))
    if not methods:
        ends = [pair.partition("-")[2] for pair in ends]
    for name in recipe_names():
        folder, _, end = name.rpartition("/")
        if end in ends and folder.startswith(f"{data}/"):
            settings = read_shipped(name)
            if method_names(settings.get("method")) == list(methods) and _update_name(settings) == update:
                yield name


def _pairs(recipe: Recipe, data: str) -> Iterator[str]:
    """Names of the data set's pairs of these two networks."""
    for name in shipped_names():
        folder, _, pair = name.rpartition("/")
        if folder == f"{data}/pairs":
            settings = read_shipped(name)
            is_student = settings["student"]["model"] == recipe.student.model
            if is_student and (recipe.teacher is None or settings["teacher"]["model"] == recipe.teacher.model):
                yield pair


def _as_here(recipe: Recipe, name: str, methods: Sequence[str], update: str) -> Recipe:
    """A shipped recipe with what was laid on the comparison's own: strategies, options, key=value."""
    is_own = [config.method.name for config in recipe.method] == list(methods)
    changes = _of_this_row(recipe.origin.changes, is_own=is_own, update=update)
    if not methods:
        changes.pop("teacher", None)
    if WHERE in changes:
        changes[WHERE] = [_of_this_row(rule, is_own=True, update=update) for rule in changes[WHERE]]
    return Recipe.read(settings_alone(merged(read_shipped(name), changes)), what=f"recipe {name}")


def _of_this_row(changes: Mapping[str, Any], *, is_own: bool, update: str) -> dict[str, Any]:
    """What of it concerns a row: another method's settings do not, nor those that only another update reads."""
    strange = ("rows", "published") if is_own else ("rows", "published", "method", "task_weight")
    kept = {key: value for key, value in changes.items() if key not in strange}
    if isinstance(kept.get("update"), str):
        kept.pop("update")
    elif "update" in kept:
        known = set(UPDATES[update].Config.model_fields) - {"name"}
        kept["update"] = {key: value for key, value in kept["update"].items() if key in known}
    return kept


def _differing(found: Recipe, recipe: Recipe) -> list[Changed]:
    """Where a row's recipe and the comparison's are not alike, but for what each row has for itself."""
    sides = [{key: value for key, value in one.as_dict().items() if key not in A_ROWS_OWN} for one in (recipe, found)]
    if found.teacher is None or recipe.teacher is None:
        for side in sides:
            side.pop("teacher")
    teachers = [Changed("teacher", *(side.get("teacher") for side in sides))]
    return [*changed_settings(*sides), *(teacher for teacher in teachers if teacher.before != teacher.now)]


def _may_differ(key: str) -> bool:
    return is_free(key) or any(key == name or key.startswith(f"{name}.") for name in TOLERATED)


def _update_name(settings: Mapping[str, Any]) -> str:
    update = settings.get("update", DEFAULT_UPDATE)
    return str(update.get("name", DEFAULT_UPDATE) if isinstance(update, Mapping) else update)


def _refuse(row: str, name: str, apart: Sequence[Changed]) -> None:
    said = [f"{one.key} {_value(one.now)} (here {_value(one.before)})" for one in apart[:MOST_DIFFERENCES]]
    more = f" and {len(apart) - MOST_DIFFERENCES} more" if len(apart) > MOST_DIFFERENCES else ""
    as_here = f"{apart[0].key}={_value(apart[0].before)}"
    raise UserError(
        f"row {row!r}: its recipe, {name.removeprefix(ASSUMED)}, is trained otherwise: {', '.join(said)}{more}. Rows "
        f"share batches and epochs: leave it out and train it apart, or type what holds for all rows, a strategy or "
        f"key=value such as {as_here}"
    )


def _value(value: Any) -> str:
    return value if isinstance(value, str) else "null" if value is None else shortened_repr(value)
