"""How many views of the training set a run shows, how many it would take to show none twice, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator

from understudy.data.loaders.plan import num_steps
from understudy.recipes.schema import Recipe
from understudy.teachers.base import RunTeacher
from understudy.utils.errors import UserError
from understudy.utils.text import bytes_in_words, plural

__all__ = ["length_in_passes", "limit_views", "num_passes", "steps_note", "views_notes"]


def num_passes(recipe: Recipe, num_samples: int, *, world_size: int = 1) -> int:
    """Passes over the training images that a run begins, each of which shows a view: its epochs, or those in its steps.

    Args:
        recipe: of the run.
        num_samples: N.
        world_size: processes that share every batch; a last one that has not an image for each is left out.
    """
    if recipe.steps is None:
        return recipe.epochs
    batches = num_steps(num_samples, recipe.data)
    last = num_samples - (batches - 1) * recipe.data.batch_size
    return -(-recipe.steps // max(1, batches - (last < world_size)))


def length_in_passes(recipe: Recipe, passes: int) -> str:
    """'30 epochs', or '216 passes over the images (40,000 steps)'."""
    if recipe.steps is None:
        return plural(recipe.epochs, "epoch")
    return f"{plural(passes, 'pass', 'passes')} over the images ({recipe.steps:,} step{'s' * (recipe.steps > 1)})"


def steps_note(recipe: Recipe, num_samples: int, num_views: int, *, view_bytes: int) -> str | None:
    """Where a run's length is said in steps: how many views it takes to show none twice, and how large they would be.

    Args:
        recipe: of the bank.
        num_samples: N.
        num_views: that are banked.
        view_bytes: of one view of all seeds and teachers.
    """
    if recipe.steps is None:
        return None
    passes = num_passes(recipe, num_samples)
    note = f"bank     this recipe's run is {length_in_passes(recipe, passes)}"
    if num_views >= passes:
        return f"{note}, and shows none of these views twice"
    size = bytes_in_words(view_bytes * passes)
    return f"{note}: --views {passes} ({size}) would show none twice, as with a live teacher"


def limit_views(teacher: RunTeacher, num_views: int | None, recipe: Recipe, *, passes: int) -> None:
    """Let a run show the views that it began with, or as many as every seed has, whatever has been added since.

    Args:
        teacher: of the run; changed in place.
        num_views: that the run began with; None: it begins now.
        recipe: of the run.
        passes: over the images that the run begins, see `num_passes`.

    Raises:
        UserError: a bank has fewer; or fewer than passes, under `bank.views: unique`.
    """
    there = teacher.limit_views(num_views)
    if there is None or recipe.bank is None or recipe.bank.views != "unique":
        return
    shown = there if num_views is None else num_views
    if shown >= passes:
        return
    length = length_in_passes(recipe, passes)
    shorten = f"set epochs={shown}" if recipe.steps is None else "take fewer steps"
    if shown < there:
        raise UserError(
            f"bank.views: unique, but this run began with {plural(shown, 'view')}, too few for {length}; {shorten}, or "
            "bank.views=repeat"
        )
    raise UserError(
        f"bank.views: unique, but {teacher.name} has {plural(shown, 'view')} for {length}; add views (the command that "
        f"made it, with --views {passes}), {shorten}, or bank.views=repeat"
    )


def views_notes(num_views: int, recipe: Recipe, *, passes: int) -> Iterator[str]:
    """What a person should be told of banks that have fewer views than the run has passes over the images."""
    if num_views >= passes:
        return
    every = plural(num_views, "epoch") if recipe.steps is None else plural(num_views, "pass", "passes")
    shown = f"{plural(num_views, 'view')} for {length_in_passes(recipe, passes)}"
    note = f"bank     {shown}: every {every} the same augmented images"
    if (repeats := recipe.data.repeats) > 1:  # a view shows one in `repeats` of the samples
        note += f", of about {100 * (1 - (1 - 1 / repeats) ** num_views):.0f} % of the samples"
    yield note
