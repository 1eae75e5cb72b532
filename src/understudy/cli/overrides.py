"""What a person typed as options, laid on a recipe. Imports torch where that is done, not before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from understudy.utils.errors import UserError

if TYPE_CHECKING:
    from understudy.recipes.schema import Recipe

__all__ = ["CliOverrides"]

DEFAULT_METHOD = "kd"  # where there is a teacher and nobody says what to do with it


@dataclass(frozen=True, kw_only=True)
class CliOverrides:
    """Options of the command line; None where nothing was typed."""

    teacher: str | None = None
    teacher_weights: str | None = None
    train_teacher: int | None = None
    student: str | None = None
    student_weights: str | None = None
    data: str | None = None
    method: str | None = None
    update: str | None = None
    rows: str | None = None
    sweeps: tuple[str, ...] = ()
    epochs: int | None = None
    seeds: str | None = None
    allow_weak_teacher: bool = False

    def apply_to(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of `base` with what was typed in their place."""
        from understudy.recipes.schema import merged

        teacher = {
            "model": self.teacher,
            "weights": self.teacher_weights,
            "train_epochs": self.train_teacher,
            "allow_weak": self.allow_weak_teacher or None,
        }
        typed = {
            "data": _there({"root": self.data}),
            "teacher": _there(teacher),
            "student": _there({"model": self.student, "weights": self.student_weights}),
            "method": None if self.method is None else _methods(self.method),
            "update": None if self.update is None else {"name": self.update},
            "rows": self._rows(),
            "epochs": self.epochs,
            "seeds": None if self.seeds is None else _seeds(self.seeds),
        }
        settings = merged(base, _there(typed))
        if "teacher" in settings and "method" not in settings and (self.sweeps or "rows" not in settings):
            settings["method"] = DEFAULT_METHOD
        _ask_for_what_is_missing(settings)
        return settings

    def _rows(self) -> list[Any] | None:
        """Named rows, then those of the sweeps; None where neither was typed."""
        from understudy.recipes.sweeps import sweep_rows

        if self.rows is None and not self.sweeps:
            return None
        named = [] if self.rows is None else [row.strip() for row in self.rows.split(",")]
        return [*named, *(sweep_rows(self.sweeps) if self.sweeps else [])]

    def names_all_code_of(self, recipe: Recipe, overrides: Sequence[str]) -> bool:
        """Whether every module.path:factory of the recipe was typed by the person who runs it."""
        from understudy.models.libraries import SOURCES

        typed = {self.teacher, self.student, *(override.partition("=")[2] for override in overrides)}
        models = [recipe.student.model, *([recipe.teacher.model] if recipe.teacher else [])]
        return all(model in typed for model in models if model.partition(":")[0] not in SOURCES)


def _methods(text: str) -> str | list[str]:
    from understudy.methods import METHODS
    from understudy.optim import UPDATES

    parts = [part.strip() for part in text.split("+")]
    for part in parts:
        if part in UPDATES and part not in METHODS:
            raise UserError(f"--method {text}: {part} is no method but an update; write --update {part}")
    return parts[0] if len(parts) == 1 else parts


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


def _there(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None and value != {}}


def _ask_for_what_is_missing(settings: Mapping[str, Any]) -> None:
    missing = [f"--{key} {what}" for key, what in (("data", "FOLDER"), ("student", "timm:NAME")) if key not in settings]
    if missing:
        raise UserError(
            f"still needed: {', '.join(missing)} (or a recipe; `understudy recipes` lists the shipped ones)"
        )
