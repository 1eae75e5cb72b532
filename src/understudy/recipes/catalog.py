"""The shipped recipes as people look for them: by words of their names, and by data set and method."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby

from understudy.recipes.loading import ASSUMED, STRATEGIES, recipe_names, strategy_names
from understudy.utils.errors import UserError, shortened_repr, unknown_name
from understudy.utils.text import plural

__all__ = ["grouped", "names_with", "recipe_listing"]

MOST_IN_FULL = 20  # found names that are printed one a line, to be pasted; more are grouped
HOW_TO_GO_ON = (
    "`understudy recipes WORD...` finds, `--names` prints one name a line, `recipes show NAME` every setting."
)


def recipe_listing(words: Sequence[str] = (), *, width: int | None = None, names_only: bool = False) -> str:
    """The shipped recipes and strategies whose names hold all words, as text.

    Args:
        words: none for all names.
        width: of the terminal; None where nothing is wrapped.
        names_only: one full name a line, however many there are.

    Raises:
        UserError: a word that no name has, or words that no name has together.
    """
    found = names_with(words, [*recipe_names(), *strategy_names()])
    if names_only or (words and len(found) <= MOST_IN_FULL):
        return "\n".join(found)
    closing = [_filled(line, width) for line in (_counts(found), HOW_TO_GO_ON)]
    return "\n\n".join([grouped(found, width=width), "\n".join(closing)])


def names_with(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those names in which every word occurs, in their order.

    Raises:
        UserError: a word that no name has, or words that no name has together.
    """
    words = [word.lower() for word in words]
    having = {word: [name for name in names if word in name] for word in words}
    unknown = [word for word, found in having.items() if not found]
    if unknown:
        known = {part for name in names for part in re.split("[/-]", name)}
        raise UserError("\n".join(f"recipes {shortened_repr(word)}: {unknown_name(word, known)}" for word in unknown))
    together = [name for name in names if all(word in name for word in words)]
    if not together:
        apart = ", ".join(f"{word} {len(found)}" for word, found in having.items())
        raise UserError(f"no recipe has all of these words in its name, apart they are in: {apart}; leave one out")
    return together


def grouped(names: Iterable[str], *, width: int | None = None) -> str:
    """A line for each data set and method with the pairs that there are, a paragraph for each data set."""
    pairs: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: (name.startswith(STRATEGIES), name.split("/"))):
        folder, _, pair = name.rpartition("/")
        pairs.setdefault(folder, []).append(pair)
    paragraphs = []
    for _, folders in groupby(pairs, key=_data_set):
        # As short as names may be: in 80 columns 285 recipes take 176 lines, with `classification/` 283.
        heads = {folder: f"{folder.removeprefix(ASSUMED)}/" for folder in folders}
        column = max(map(len, heads.values())) + 3
        lines = [
            _filled(head.ljust(column) + ", ".join(pairs[folder]), width, column) for folder, head in heads.items()
        ]
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


def _data_set(folder: str) -> str:
    """'classification/cifar100' of 'classification/cifar100/dist'."""
    return "/".join(folder.split("/")[:2])


def _counts(names: Sequence[str]) -> str:
    """'240 recipes on 5 data sets, 14 strategies to be laid on a recipe, as in ...'."""
    recipes = [name for name in names if not name.startswith(STRATEGIES)]
    data_sets = {_data_set(name.rpartition("/")[0]) for name in recipes}
    num_strategies = len(names) - len(recipes)
    said = [f"{plural(len(recipes), 'recipe')} on {plural(len(data_sets), 'data set')}"] if recipes else []
    if num_strategies:
        strategies = plural(num_strategies, "strategy", "strategies")
        said.append(f"{strategies} to be laid on a recipe: `understudy train RECIPE STRATEGY`")
    return ", ".join(said)


def _filled(line: str, width: int | None, indent: int = 0) -> str:
    """The line wrapped between words, also where a terminal is too narrow for one."""
    if width is None:
        return line
    return textwrap.fill(
        line, max(width, 1), subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
