"""`understudy recipes`: the shipped recipes found by words, and one of them in full."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from typer.core import TyperGroup

from understudy.cli.command import Command
from understudy.cli.options import RecipeOptions, Words
from understudy.cli.overrides import resolve_recipe
from understudy.utils.untrusted import visible

if TYPE_CHECKING:
    from understudy.methods import MethodConfig
    from understudy.recipes.schema import Recipe

__all__ = ["recipes_app"]


class ListUnlessNamed(TyperGroup):
    """`recipes WORD...` means `recipes list WORD...`; a subcommand is one only as the first word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `list` before words and options that name no subcommand."""
        is_named = bool(args) and args[0] in (*self.commands, *ctx.help_option_names)
        return super().parse_args(ctx, args if is_named else ["list", *args])


recipes_app = typer.Typer(
    cls=ListUnlessNamed,
    subcommand_metavar="[WORD]... [--names] | show NAME [KEY=VALUE]...",
    help="List the shipped recipes, or those whose names have every WORD; `recipes show NAME` prints one resolved.",
)


@recipes_app.command("list", cls=Command)
def recipes_list(
    words: Annotated[list[str] | None, typer.Argument(metavar="WORD", show_default=False)] = None,
    names: Annotated[bool, typer.Option("--names", help="One full name a line, for pipes.")] = False,
) -> None:
    """List the recipes whose names have every WORD; `list` itself may be left out."""
    from understudy.recipes.catalog import recipe_listing

    # Without a terminal nothing tells the width: nothing is wrapped.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    typer.echo(recipe_listing(words or [], width=width, names_only=names))


@recipes_app.command("show", cls=Command)
def recipes_show(words: Words = None) -> None:
    """Print a recipe with everything that it extends and every default, or a strategy as it is.

    What it needs that is not here, and the commands that run it, follow as YAML comments.
    """
    from understudy.recipes.loading import STRATEGIES, read_recipes

    is_strategy = bool(words) and all(word.startswith(STRATEGIES) for word in words or [])
    recipe = None if is_strategy else resolve_recipe(RecipeOptions(words=words))[0]
    settings = read_recipes(words or []) if recipe is None else recipe.as_dict()
    typer.echo(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), nl=False)
    if recipe is not None and recipe.method:
        typer.echo(f"# where null stands, the method's own: {_own_weights(recipe.method)}")
    if recipe is not None:
        typer.echo("".join(f"# {line}\n" for line in _before_it_runs(recipe)), nl=False)


def _before_it_runs(recipe: Recipe) -> list[str]:
    """What the recipe's file says of itself, what is missing here, and the commands."""
    from understudy.recipes.loading import opening_comment
    from understudy.runs.absent_files import absent_files
    from understudy.runs.first_steps import first_steps

    name = recipe.origin.recipe
    missing = [f"missing here: {visible(problem)}" for problem in absent_files(recipe)]
    return ["\n# ".join(line.splitlines()) for line in [*opening_comment(name or ""), *missing, *first_steps(recipe)]]


def _own_weights(methods: Sequence[MethodConfig]) -> str:
    """'method.weight 2, method.warmup_epochs 0 (dist), task_weight 1'."""
    from understudy.methods.combination import default_task_weight, weighted

    named = []
    for config in methods:
        weight, warmup_epochs = weighted(config)
        named.append(f"method.weight {weight:g}, method.warmup_epochs {warmup_epochs} ({config.method.name})")
    return ", ".join([*named, f"task_weight {default_task_weight(methods):g}"])
