"""What a person typed as options, laid on a recipe. Imports torch where that is done, not before."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from understudy.cli.without_teacher import ask_for_a_teacher, names_a_teacher
from understudy.utils.errors import UserError

if TYPE_CHECKING:
    from understudy.cli.options import RecipeOptions
    from understudy.recipes.schema import Recipe

__all__ = ["has_typed_all_code", "image_size_typed", "resolve_recipe", "with_options"]

PUBLISHED = ("timm", "torchvision", "hf", "ultralytics")  # sources of networks that come with weights
DEFAULT_METHOD = "kd"  # where there is a teacher and nobody says what to do with it


def resolve_recipe(typed: RecipeOptions) -> tuple[Recipe, bool]:
    """The recipe that the command line means, and whether it may name code: that was allowed, or all of it typed."""
    from understudy.recipes.loading import read_recipes
    from understudy.recipes.schema import recipe_from

    overrides = [word for word in typed.words or [] if "=" in word]
    names = [word for word in typed.words or [] if "=" not in word]
    settings = with_options(read_recipes(names), typed)
    says_who_teaches = bool(names) or names_a_teacher(settings, typed, overrides)
    what = f"recipe {' with '.join(names)}" if names else "these settings"
    recipe = recipe_from(settings, overrides, what=what)
    if not says_who_teaches:
        ask_for_a_teacher(recipe)
    if _trains_a_published_network(recipe, typed, overrides):
        recipe = recipe_from(settings, [*overrides, "teacher.weights=pretrained"], what=what)
    if typed.task == "classification":
        _refuse_masks_and_boxes(recipe)
    recipe = _with_task_of_its_rows(recipe)
    return recipe, typed.allow_code or has_typed_all_code(recipe, typed, overrides)


def _refuse_masks_and_boxes(recipe: Recipe) -> None:
    """Refuse data that have no class for each image, where a person asked for these."""
    from understudy.data.sources.detect import task_at

    if (task := task_at(recipe.data)) != "classification":
        has = {"segmentation": "masks", "detection": "boxes"}[task]
        raise UserError(
            f"--task classification: {recipe.data.root} has {has}; leave --task out, or name a folder with a folder of "
            "images for each class"
        )


def _with_task_of_its_rows(recipe: Recipe) -> Recipe:
    """The recipe with the task of its data, by which rows take their settings before the data are opened."""
    from understudy.data.sources.detect import task_at
    from understudy.recipes.schema import Recipe

    if not recipe.rows or recipe.task != Recipe.model_fields["task"].default or recipe.origin.data is not None:
        return recipe
    return recipe.model_copy(update={"task": task_at(recipe.data)})


def with_options(base: Mapping[str, Any], typed: RecipeOptions) -> dict[str, Any]:
    """The settings of `base` with what was typed in their place.

    Raises:
        UserError: what was typed means nothing, or data or student are still missing.
    """
    from understudy.recipes.schema import merged
    from understudy.runs.bank.open import with_banked_teacher

    teacher = {
        "model": typed.teacher,
        "weights": typed.teacher_weights,
        "train_epochs": typed.train_teacher,
        "allow_weak": typed.allow_weak_teacher or None,
    }
    wanted = {
        "task": typed.task,
        "data": _there(
            {
                "root": typed.data,
                "batch_size": typed.batch_size,
                "image_size": None if typed.image_size is None else image_size_typed(typed.image_size),
                "workers": typed.workers,
            }
        ),
        "teacher": _there(teacher),
        "student": _there({"model": typed.student, "weights": typed.student_weights}),
        "method": None if typed.method is None else _methods(typed.method, allow_code=typed.allow_code),
        "update": _there({"name": typed.update, "lr": typed.lr, "weight_decay": typed.weight_decay}),
        "rows": _rows(typed, base.get("rows")),
        "epochs": typed.epochs,
        "seeds": None if typed.seeds is None else _seeds(typed.seeds),
        "trackers": None if typed.tracker is None else _names(typed.tracker),
        "probes": None if typed.probes is None else _probes(typed.probes, allow_code=typed.allow_code),
        "bank": _there({"path": None if typed.bank is None else str(typed.bank)}),
        "device": typed.device,
        "threads": typed.threads,
    }
    settings = with_banked_teacher(merged(base, _there(wanted)))
    if "teacher" in settings and "method" not in settings and (typed.sweep or "rows" not in settings):
        settings["method"] = DEFAULT_METHOD
    _ask_for_what_is_missing(settings)
    return settings


def _trains_a_published_network(recipe: Recipe, typed: RecipeOptions, overrides: Sequence[str]) -> bool:
    """Whether a person had the teacher trained, said nothing of its weights, and so counts on published ones."""
    from understudy.models.names import split_name

    teacher = recipe.teacher
    if teacher is None or teacher.train_epochs == 0 or teacher.weights is not None:
        return False
    is_asked_for = typed.train_teacher is not None or any(
        override.startswith(("teacher.train_epochs=", "teacher=")) for override in overrides
    )
    return is_asked_for and split_name(teacher.model)[0] in PUBLISHED


def has_typed_all_code(recipe: Recipe, typed: RecipeOptions, overrides: Sequence[str]) -> bool:
    """Whether own code (FILE.py:Class) and pickles that the recipe names were all typed by the person who runs it."""
    from understudy.models.names import may_run_code

    written = {typed.teacher, typed.student, *(override.partition("=")[2] for override in overrides)}
    named = [(recipe.student.model, recipe.student.kwargs)]
    if recipe.teacher is not None:
        named.append((recipe.teacher.model, recipe.teacher.kwargs))
        named += [(further.model, further.kwargs) for further in recipe.teacher.also.values()]
    return all(model in written for model, kwargs in named if may_run_code(model, kwargs))


def _rows(typed: RecipeOptions, own: Any) -> list[Any] | None:
    """Named rows, then those of the sweeps; None where neither was typed. `own`: the recipe's, some with names."""
    from understudy.recipes.own_methods import with_own_methods
    from understudy.recipes.sweeps import sweep_rows

    if typed.rows is None and not typed.sweep:
        return None
    rows = typed.rows and with_own_methods(typed.rows, option="--rows", allow_code=typed.allow_code)
    named: list[Any] = [] if rows is None else [row.strip() for row in rows.split(",")]
    written = {row.get("name"): row for row in own if isinstance(row, Mapping)} if isinstance(own, list) else {}
    named = [written.get(name, name) for name in named]
    return [*named, *(sweep_rows(typed.sweep) if typed.sweep else [])]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _methods(text: str, *, allow_code: bool) -> str | list[str]:
    from understudy.methods import METHODS
    from understudy.optim import UPDATES
    from understudy.recipes.own_methods import with_own_methods

    text = with_own_methods(text, option="--method", allow_code=allow_code)
    parts = [part.strip() for part in text.split("+")]
    for part in parts:
        if part in UPDATES and part not in METHODS:
            raise UserError(f"--method {text}: {part} is no method but an update; write --update {part}")
    return parts[0] if len(parts) == 1 else parts


def _probes(text: str, *, allow_code: bool) -> list[str]:
    from understudy.recipes.own_methods import with_own_probes

    return _names(with_own_probes(text, option="--probes", allow_code=allow_code))


def _seeds(text: str) -> list[int]:
    """'3' means 0, 1, 2; '3,' or '3,5' name them."""
    from understudy.recipes.schema import MOST_SEEDS

    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--seeds {text!r}: write how many, such as 3, or which, such as 0,1,2") from None
    if not numbers or (len(numbers) == 1 and "," not in text and numbers[0] < 1):
        raise UserError(f"--seeds {text!r}: at least one is needed")
    if "," not in text and numbers[0] > MOST_SEEDS:
        raise UserError(f"--seeds {text!r}: at most {MOST_SEEDS:,}; a comma names one seed: {text},")
    return list(range(numbers[0])) if "," not in text else numbers


def image_size_typed(text: str) -> int | list[int]:
    """'224' or '96x160'."""
    if not re.fullmatch(r"\d{1,6}(\s*[x×]\s*\d{1,6})?", text.strip()):
        raise UserError(f"--image-size {text!r}: write pixels a side, such as 224, or HEIGHTxWIDTH, such as 96x160")
    sides = [int(side) for side in re.findall(r"\d+", text)]
    return sides[0] if len(sides) == 1 else sides


def _there(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None and value != {}}


def _ask_for_what_is_missing(settings: Mapping[str, Any]) -> None:
    missing = [f"--{key} {what}" for key, what in (("data", "FOLDER"), ("student", "timm:NAME")) if key not in settings]
    if missing:
        raise UserError(
            f"still needed: {', '.join(missing)} (or a recipe; `understudy recipes` lists the shipped ones)"
        )
