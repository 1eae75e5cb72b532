"""The folder of one run: which one to take, what lies in it, and how it is written."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from understudy import checkpoint
from understudy.config import UserError, differences
from understudy.handed_over import differing_parts
from understudy.locking import LOCK_FILE, held
from understudy.logs import json_text
from understudy.untrusted import given_path, plain_json, plain_yaml, text_of

__all__ = ["RunFolder", "choose_run_folder", "open_run_folder"]

WRITTEN = (  # everything that a run leaves in its folder
    "recipe.yaml",
    "environment.json",
    "metrics.jsonl",
    "timing.jsonl",
    "results.json",
    "predictions.safetensors",
    "memory_format.json",
    "handed_over.json",
    "report.html",
    LOCK_FILE,
    "checkpoints",
    "teacher",
    "student",
    "students",
    ".teacher.partial",
    ".student.partial",
)
BEGINNINGS = (
    "environment.json",
    "handed_over.json",
    ".environment.json.partial",
    ".handed_over.json.partial",
    ".recipe.yaml.partial",
)  # of a run that died at once
MAX_RECIPE_BYTES = 1_000_000
MOST_KEYS = 4  # of what differs, in one line
MAX_RESULTS_BYTES = 64_000_000
HARMLESS = (
    ("teacher", "allow_weak"),
    ("log_every",),
    ("checkpoint_minutes",),
    ("checkpoint_steps",),
    ("device",),
    ("on_nan",),  # what it changes, it changes after the last checkpoint
    ("bank", "num_views"),  # a run goes on with those that it began with
)  # a run may go on with others of these


class RunFolder:
    """Paths and plain files of a run. A run is finished once it has its results."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.results_file = path / "results.json"
        self.environment_file = path / "environment.json"
        self.timing_file = path / "timing.jsonl"
        self.predictions_file = path / "predictions.safetensors"
        self.report_file = path / "report.html"
        self.memory_format_file = path / "memory_format.json"  # where the recipe leaves it to a measurement
        self.handed_over_file = path / "handed_over.json"  # of networks and data that Python gave
        self.checkpoints = path / "checkpoints"
        self.teacher = path / "teacher"  # where the run trained it
        self.student = path / "student"  # the one to deploy
        self.students = path / "students"  # every row and seed

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here: a person's own recipe.yaml has no environment.json beside it."""
        return self.environment_file.is_file() and self.recipe_file.is_file()

    @property
    def has_something_to_lose(self) -> bool:
        """Whether training has begun."""
        return (
            self.is_finished or self.teacher.is_dir() or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))
        )

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return self.results_file.is_file()

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe of this run, as plain values; empty where there is none that can be read."""
        try:
            text = text_of(self.recipe_file, most_bytes=MAX_RECIPE_BYTES)
            found = plain_yaml(text, what=str(self.recipe_file))
        except UserError:
            return {}
        return dict(found) if isinstance(found, Mapping) else {}

    def handed_over(self) -> dict[str, Any]:
        """What tells networks and data that Python gave; empty where a recipe names them."""
        try:
            found = plain_json(text_of(self.handed_over_file, most_bytes=MAX_RECIPE_BYTES))
        except (UserError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def differences(self, recipe: Mapping[str, Any], handed_over: Mapping[str, Any]) -> list[str]:
        """Every setting, and everything that Python gave, in which this run is another, a line each."""
        settings = differences(_what_matters(recipe), _what_matters(self.recipe()))
        parts = [f"  {part}   another one" for part in differing_parts(handed_over, self.handed_over())]
        return [*settings, *parts]

    def results(self) -> dict[str, Any]:
        """The results of a finished run."""
        if not self.is_finished:
            raise UserError(f"{self.path} holds no finished run (no results.json)")
        damaged = f"{self.results_file} is damaged; delete it, and the command that began the run writes it again"
        try:
            found = plain_json(text_of(self.results_file, most_bytes=MAX_RESULTS_BYTES))
        except ValueError:
            raise UserError(damaged) from None
        if not isinstance(found, dict):
            raise UserError(damaged)
        return found

    def begin(self, recipe: Mapping[str, Any], environment: Mapping[str, Any], handed_over: Mapping[str, Any]) -> None:
        """Make the folder and write the resolved recipe, the environment and what tells the networks and data."""
        for file in (self.metrics_file, self.timing_file):  # which are added to; the others are replaced
            if file.is_symlink():
                raise UserError(f"{file} is a link, and what it points to would be written to; take it away")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # The recipe last: a folder with a recipe alone may be a person's own, one with BEGINNINGS is ours.
            self.write_json(self.environment_file, environment)
            if handed_over:
                self.write_json(self.handed_over_file, handed_over)
            checkpoint.write_atomically(
                self.recipe_file, yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True).encode()
            )
        except OSError as error:
            raise UserError(f"cannot write to the run folder {self.path}: {error.strerror}") from None

    def write_json(self, file: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the run whole or not at all."""
        checkpoint.write_atomically(file, json_text(content, indent=1).encode())

    def append_timing(self, line: Mapping[str, Any]) -> None:
        """Add a line to timing.jsonl: what differs from one repetition to the next."""
        with self.timing_file.open("a", encoding="utf-8") as stream:
            stream.write(json_text(line) + "\n")


def open_run_folder(path: str | Path) -> RunFolder:
    """The folder of a run that is there already."""
    run = RunFolder(given_path(path, what="run folder"))
    if not run.is_run:
        missing = " and ".join(file.name for file in (run.recipe_file, run.environment_file) if not file.is_file())
        raise UserError(f"{path} is no run folder (no {missing} in it)")
    return run


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

    With `out`: that one, if it is empty, holds an unfinished run of the same recipe, or may be overwritten.
    Without: the unfinished run of the same recipe where there is one, else the next free number.

    Args:
        recipe: the resolved one, as plain values.
        out: as a person named it.
        name: of a numbered folder.
        overwrite: whether what a run has left in `out` may go.
        runs: where numbered folders lie.
        environment: written beside the recipe.
        handed_over: what tells networks and data that the recipe does not name (`understudy.handed_over`).
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
        _refuse_another_run(run, recipe, given)
    if run.memory_format_file.is_file() and run.differences(recipe, given):
        run.memory_format_file.unlink()  # another recipe's networks were measured
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
    """The recipe with the views of its bank that the run began with, where it has: the bank may have grown since."""
    bank, begun = recipe.get("bank"), run.recipe().get("bank")
    if not isinstance(bank, Mapping) or not isinstance(begun, Mapping) or not run.has_something_to_lose:
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


def _what_matters(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what comes out."""
    kept = copy.deepcopy(dict(recipe))
    for *parents, key in HARMLESS:
        group: Any = kept
        for parent in parents:
            group = group.get(parent)
            group = group if isinstance(group, dict) else {}
        group.pop(key, None)
    return kept


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
