"""The options that several commands take, and the recipe that they come to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from understudy.cli.overrides import CliOverrides
from understudy.utils.installed import installed_names, load_installed

if TYPE_CHECKING:
    from understudy.recipes.schema import Recipe

__all__ = [
    "AllowCode",
    "AllowWeak",
    "Bank",
    "Command",
    "DataOption",
    "Epochs",
    "Format",
    "MethodOption",
    "Out",
    "Overwrite",
    "Rows",
    "Seeds",
    "StudentOption",
    "StudentWeights",
    "Sweep",
    "TeacherOption",
    "TeacherWeights",
    "TrainTeacher",
    "UpdateOption",
    "Words",
    "name_updates",
    "resolve_recipe",
]

Words = Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [STRATEGY]... [KEY=VALUE]...", show_default=False)]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        "--teacher", metavar="MODEL", help="timm:NAME, torchvision:NAME, cifar:NAME, hf:NAME or module.path:factory."
    ),
]
StudentOption = Annotated[str | None, typer.Option("--student", metavar="MODEL", help="As --teacher.")]
TeacherWeights = Annotated[str | None, typer.Option(metavar="FILE|pretrained|none", help="Weights of the teacher.")]
StudentWeights = Annotated[
    str | None, typer.Option(metavar="FILE|pretrained|none", help="What the student starts from.")
]
TrainTeacher = Annotated[
    int | None, typer.Option(metavar="N", help="First fine-tune the teacher for N epochs on the same data.")
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", metavar="FOLDER", help="Class folders, parquet, CIFAR as torchvision stores it, or digits."),
]
MethodOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="See `understudy methods`; several are joined by +.")
]
SHIPPED_UPDATES = ("joint", "dot")  # which the registry knows; asking it would import torch
_UPDATE = typer.Option()
UpdateOption = Annotated[str | None, _UPDATE]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training data.")]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="N|A,B,...", help="How many seeds (3 means 0, 1, 2), or which (4, or 1,5; a comma names them)."
    ),
]
Rows = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="Such as alone,kd,kd+dot,dist; each has the settings of its shipped recipe."),
]
Sweep = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="KEY=V1,V2,...",
        help="Rows that vary a setting: method.*, update.* or task_weight; several sweeps are combined.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="The run folder; without it, a numbered one under runs/.")
]
Bank = Annotated[
    Path | None, typer.Option("--bank", metavar="FOLDER", help="Look the teacher up where `understudy bank` stored it.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out holds.")]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let a recipe file name models as module.path:factory.")]
AllowWeak = Annotated[bool, typer.Option("--allow-weak-teacher", help="Go on with a teacher at chance level.")]
Format = Annotated[str, typer.Option("--format", metavar="text|md|csv|latex", help="Of the table.")]


class Command(TyperCommand):
    """A command that knows what installed packages bring once it runs; its --help imports nothing for it."""

    def invoke(self, ctx: Any) -> Any:
        """Import what they declare, then do as any command."""
        load_installed()
        return super().invoke(ctx)


def name_updates() -> None:
    """Have --help name the updates, those of installed packages by their entry points: nothing is imported for it."""
    names = [*SHIPPED_UPDATES, *installed_names("understudy.updates")]
    _UPDATE.metavar = "|".join(names)
    _UPDATE.help = f"How losses become new weights: {', '.join(names)}."


name_updates()


def resolve_recipe(words: list[str] | None, typed: CliOverrides, bank: Path | None = None) -> tuple[Recipe, bool]:
    """The recipe that the command line means, and whether all code it names was typed there."""
    from understudy.recipes.loading import read_recipes
    from understudy.recipes.schema import merged, recipe_from

    overrides = [word for word in words or [] if "=" in word]
    names = [word for word in words or [] if "=" not in word]
    base: dict[str, Any] = merged(read_recipes(names), {} if bank is None else {"bank": {"path": str(bank)}})
    recipe = recipe_from(
        typed.apply_to(base), overrides, what=f"recipe {' with '.join(names)}" if names else "these settings"
    )
    return recipe, typed.names_all_code_of(recipe, overrides)
