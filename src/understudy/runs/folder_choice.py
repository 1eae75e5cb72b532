"""Which folder a run takes: its own where it was cut off, one of fewer epochs that is over, or a new one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from understudy.recipes.schema import Recipe
from understudy.runs import checkpoint
from understudy.runs.folder import WRITTEN, RunFolder
from understudy.utils.errors import UserError
from understudy.utils.lock import held
from understudy.utils.text import plural
from understudy.utils.untrusted import given_path

__all__ = ["choose_run_folder", "goes_on_unturned"]

BEGINNINGS = (
    "environment.json",
    "handed_over.json",
    ".environment.json.partial",
    ".handed_over.json.partial",
    ".recipe.yaml.partial",
)  # of a run that died at once
# What opening the data settles, and so may yet differ from a run that is going to be gone on with.
SETTLED_AT_OPENING = {"data.grey_range", "teacher.classes", "bank.key", "bank.num_views"}
MOST_KEYS = 4  # of what differs, in one line


def goes_on_unturned(
    recipe: Recipe,
    *,
    out: Path | None,
    name: str,
    overwrite: bool,
    runs: Path = Path("runs"),
    handed_over: Mapping[str, Any] | None = None,
) -> bool:
    """Whether the call goes on with a run from before images were turned upright, whose images stay as they lie.

    Asked before the data are opened. Arguments as in `choose_run_folder`.
    """
    if not recipe.data.exif_rotation or overwrite:
        return False
    if out is not None:
        run = RunFolder(given_path(out, what="run folder"))
        return run.is_run and run.has_something_to_lose and run.lacks_exif_rotation
    unturned = recipe.with_data(exif_rotation=False).as_dict()
    begun = [RunFolder(folder) for _, folder in reversed(_numbered(name, runs))]
    return any(
        {line.split()[0] for line in run.differences(unturned, handed_over or {})} <= SETTLED_AT_OPENING
        for run in begun
        if run.is_run and not run.is_finished and run.has_something_to_lose and run.lacks_exif_rotation
    )


def choose_run_folder(
    recipe: Mapping[str, Any],
    *,
    out: Path | None,
    name: str,
    overwrite: bool,
    runs: Path = Path("runs"),
    environment: Mapping[str, Any] | None = None,
    handed_over: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> RunFolder:
    """The folder to run in.

    With `out`: that one, if it is empty, holds an unfinished run of the same recipe, or a finished one of fewer epochs,
    or may be overwritten.
    Without: the unfinished run of the same recipe where there is one, else the next free number.

    Args:
        recipe: the resolved one, as plain values.
        out: as a person named it.
        name: of a numbered folder.
        overwrite: whether what a run has left in `out` may go.
        runs: where numbered folders lie.
        environment: written beside the recipe.
        handed_over: what tells networks and data that the recipe does not name (`understudy.runs.identity`).
        say: is told of an unfinished run that is left alone.

    Raises:
        UserError: `out` holds a finished run, or another one (the difference is shown).
    """
    given = handed_over or {}
    if out is None:
        run = _numbered_folder(recipe, given, name=name, runs=runs, say=say)
    else:
        run = RunFolder(given_path(out, what="run folder"))
        if overwrite and run.is_run:
            with held(run.path, what="run folder"):  # by nobody else
                _clear(run)
        if _can_go_on(run, recipe, given):
            _open_again(run, recipe, say)
        else:
            _refuse_another_run(run, recipe, given)
    for file in (run.memory_format_file, run.threads_file, run.decoder_file):
        if file.is_file() and run.differences(recipe, given):
            file.unlink()  # another recipe's networks were measured
    run.begin(_as_begun(run, recipe), environment or {}, given)
    return run


def _numbered_folder(
    recipe: Mapping[str, Any], given: Mapping[str, Any], *, name: str, runs: Path, say: Callable[[str], None]
) -> RunFolder:
    """The newest unfinished run of just this, else a new one; an unfinished one of something else is spoken of."""
    begun = [RunFolder(folder) for _, folder in reversed(_numbered(name, runs))]
    unfinished = [run for run in begun if run.is_run and not run.is_finished]
    for run in unfinished:
        if not run.differences(recipe, given):
            return run
    new = RunFolder(runs / f"{name}-{_next_number(name, runs)}")
    left = next((run for run in unfinished if run.has_something_to_lose and run.recipe()), None)
    if left is not None:
        keys = [line.split()[0] if "   here " in line else line.strip() for line in left.differences(recipe, given)]
        differing = ", ".join(key.removesuffix("   another one") for key in keys[:MOST_KEYS])
        more = f" and {len(keys) - MOST_KEYS} more" if len(keys) > MOST_KEYS else ""
        say(f"note     {left.path} is unfinished, but not of this run (other {differing}{more}): this is {new.path}")
    return new


def _as_begun(run: RunFolder, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe with what the run began with, where it has: the views of its bank, which may have grown since.

    That of a run from before images were turned upright stays without that setting, so that it is known as one.
    """
    if not run.has_something_to_lose:
        return recipe
    if run.lacks_exif_rotation and not recipe["data"]["exif_rotation"]:
        recipe = {**recipe, "data": {key: value for key, value in recipe["data"].items() if key != "exif_rotation"}}
    bank, begun = recipe.get("bank"), run.recipe().get("bank")
    if not isinstance(bank, Mapping) or not isinstance(begun, Mapping):
        return recipe
    num_views = begun.get("num_views")
    return recipe if num_views is None else {**recipe, "bank": {**bank, "num_views": num_views}}


def _refuse_another_run(run: RunFolder, recipe: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if not run.is_run:
        if run.path.is_dir() and any(file.name not in BEGINNINGS for file in run.path.iterdir()):
            raise UserError(f"{run.path} is not empty and holds no run; take another --out")
        return
    if run.is_finished:
        raise UserError(f"{run.path} holds a finished run; take another --out, or --overwrite to replace it")
    found = run.differences(recipe, given)
    if found and run.has_something_to_lose:
        raise UserError(
            "\n".join(
                [f"{run.path} holds an unfinished run of another recipe; take another --out, or --overwrite", *found]
            )
        )


def _can_go_on(run: RunFolder, recipe: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether this is a run that is over, asked for with more epochs and nothing else changed.

    Raises:
        UserError: it is, but its last checkpoints are not there any more.
    """
    begun = run.recipe()
    done, wanted, seeds = begun.get("epochs"), recipe.get("epochs"), begun.get("seeds")
    if not (run.is_run and isinstance(done, int) and isinstance(wanted, int) and isinstance(seeds, list) and seeds):
        return False
    is_over = all(run.epochs_of(seed) == done for seed in seeds)
    if not is_over or done >= wanted or run.differences({**recipe, "epochs": done}, given):
        return False
    for file in (checkpoint.end_file(run.checkpoints, f"seed{seed}") for seed in seeds):
        if not file.is_file() or checkpoint.is_damaged(file):
            problem = "is damaged" if file.is_file() else "is gone"
            raise UserError(
                f"{run.path} holds a finished run; take another --out, or --overwrite to replace it (it cannot go on "
                f"to {wanted} epochs: {file.name} {problem})"
            )
    return True


def _open_again(run: RunFolder, recipe: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Take away what only a run that is over has; its recipe is the next thing to be written."""
    done, wanted = run.recipe()["epochs"], recipe["epochs"]
    say(
        f"note     {run.path} holds a run of {plural(done, 'epoch')} that is over: it goes on to {wanted}, from "
        f"epoch {done + 1} on with the learning rates of a run of {wanted}"
    )
    with held(run.path, what="run folder"):  # by nobody else
        for file in (run.report_file, run.results_file):
            file.unlink(missing_ok=True)


def _numbered(name: str, runs: Path) -> list[tuple[int, Path]]:
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    matches = [(pattern.fullmatch(folder.name), folder) for folder in (runs.iterdir() if runs.is_dir() else ())]
    return sorted((int(match[1]), folder) for match, folder in matches if match)


def _next_number(name: str, runs: Path) -> int:
    taken = _numbered(name, runs)
    return taken[-1][0] + 1 if taken else 1


def _clear(run: RunFolder) -> None:
    """Delete what a run has written, and nothing else that may lie in the folder."""
    for name in WRITTEN:
        path = run.path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
