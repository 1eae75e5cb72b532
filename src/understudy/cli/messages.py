"""Errors that speak of the option that was typed, not of the setting of a recipe that it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from understudy.cli.options import SETTINGS, RecipeOptions
from understudy.utils.errors import UserError

__all__ = ["option_of", "speaking_of", "typed_options"]


def option_of(field: str) -> str:
    """'--batch-size' of batch_size."""
    return f"--{field.replace('_', '-')}"


def typed_options(typed: RecipeOptions) -> dict[str, str]:
    """The options that were typed, by the setting that each is for."""
    overridden = {word.partition("=")[0] for word in typed.words or []}
    values = {field: getattr(typed, field) for field, key in SETTINGS.items() if key not in overridden}
    fields = {field: SETTINGS[field] for field, value in values.items() if value is not None and value is not False}
    if "train_teacher" in fields:  # what is wrong with the weights of a teacher that is trained is said of its option
        fields["teacher_weights"] = SETTINGS["teacher_weights"]
    return {key: option_of(field) for field, key in fields.items()}


@contextmanager
def speaking_of(options: Mapping[str, str]) -> Iterator[None]:
    """Have every UserError of the block name these options in place of their settings."""
    try:
        yield
    except UserError as error:
        error.args = (_reworded(str(error), options),)
        raise


def _reworded(text: str, options: Mapping[str, str]) -> str:
    for key, option in options.items():
        name = rf"(?<![\w.\-/]){re.escape(key)}"
        text = re.sub(rf"{name}=(?=[^\s=])", f"{option} ", text)
        if "." in key:
            text = re.sub(rf"{name}(?![\w=/]|\.\w)", option, text)
        else:  # a plain word, too: only where it stands as a key
            text = re.sub(rf"(?m)^(\s*){re.escape(key)}(?=:|\s{{3}})", rf"\1{option}", text)
    return re.sub(r"(--[\w-]+ [A-Z]+) \(\1\)", r"\1", text)
