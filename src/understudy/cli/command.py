"""What a command is: it knows installed parts once it runs, and may be handed the shared options as one object."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

from typer.core import TyperCommand

from understudy.cli.messages import speaking_of, typed_options
from understudy.cli.options import RecipeOptions
from understudy.utils.installed import load_installed

__all__ = ["Command", "takes_recipe"]


class Command(TyperCommand):
    """A command that knows what installed packages bring once it runs; its --help imports nothing for it."""

    def invoke(self, ctx: Any) -> Any:
        """Import what they declare, then do as any command."""
        load_installed()
        return super().invoke(ctx)


def takes_recipe(
    *, only: Collection[str] = (), without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a recipe, in place of its parameter `typed: RecipeOptions`.

    Typer makes options of a signature's parameters. This writes the signature that has a parameter for each field of
    `RecipeOptions`, and hands the command one object of what was typed.

    Args:
        only: the fields that the command has; none named: all of them.
        without: fields that it does not have.
    """
    names = [field.name for field in fields(RecipeOptions)]
    assert {*only, *without} <= set(names), "a field that RecipeOptions does not have"
    taken = [name for name in names if name in (only or names) and name not in without]

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> None:
            typed = RecipeOptions(**{name: given.pop(name) for name in taken})
            with speaking_of(typed_options(typed)):
                command(typed=typed, **given)

        run.__signature__ = _written_out(command, taken)  # type: ignore[attr-defined]
        return run

    return decorated


def _written_out(command: Callable[..., None], taken: Collection[str]) -> Signature:
    """The command's signature with one parameter for each field taken where it has `typed`."""
    hints = get_type_hints(RecipeOptions, include_extras=True)
    defaults = {field.name: field.default for field in fields(RecipeOptions)}
    parameters: list[Parameter] = []
    for own in signature(command, eval_str=True).parameters.values():
        if own.name == "typed":
            parameters += [
                Parameter(name, Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hints[name])
                for name in taken
            ]
        else:
            parameters.append(own.replace(kind=Parameter.KEYWORD_ONLY))
    return Signature(parameters)
