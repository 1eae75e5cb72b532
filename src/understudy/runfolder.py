"""The folder of one run: which one to take, what lies in it, and how it is written."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from understudy import checkpoint
from understudy.config import UserError, differences
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
    "report.html",
    LOCK_FILE,
    "checkpoints",
    "teacher",
    "student",
    "students",
    ".teacher.partial",
    ".student.partial",
)
BEGINNINGS = ("environment.json", ".environment.json.partial", ".recipe.yaml.partial")  # of a run that died at once
MAX_RECIPE_BYTES = 1_000_000
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

    def begin(self, recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Make the folder and write the resolved recipe and the environment."""
        for file in (self.metrics_file, self.timing_file):  # which are added to; the others are replaced
            if file.is_symlink():
                raise UserError(f"{file} is a link, and what it points to would be written to; take it away")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # The recipe last: a folder with a recipe alone may be a person's own, one with BEGINNINGS is ours.
            self.write_json(self.environment_file, environment)
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
) -> RunFolder:
    """The folder to run in.

    With `out`: that one, if it is empty, holds an unfinished run of the same recipe, or may be overwritten.
    Without: the unfinished run of the same recipe where there is one, else the next free number.

    Raises:
        UserError: `out` holds a finished run, or another recipe's (the difference is shown).
    """
    if out is None:
        run = _unfinished(recipe, name=name, runs=runs) or RunFolder(runs / f"{name}-{_next_number(name, runs)}")
    else:
        run = RunFolder(given_path(out, what="run folder"))
        if overwrite and run.is_run:
            with held(run.path, what="run folder"):  # by nobody else
                _clear(run)
        _refuse_another_run(run, recipe)
    if run.memory_format_file.is_file() and _what_matters(run.recipe()) != _what_matters(recipe):
        run.memory_format_file.unlink()  # another recipe's networks were measured
    run.begin(_as_begun(run, recipe), environment or {})
    return run


def _as_begun(run: RunFolder, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe with the views of its bank that the run began with, where it has: the bank may have grown since."""
    bank, begun = recipe.get("bank"), run.recipe().get("bank")
    if not isinstance(bank, Mapping) or not isinstance(begun, Mapping) or not run.has_something_to_lose:
        return recipe
    num_views = begun.get("num_views")
    return recipe if num_views is None else {**recipe, "bank": {**bank, "num_views": num_views}}


def _refuse_another_run(run: RunFolder, recipe: Mapping[str, Any]) -> None:
    if not run.is_run:
        if run.path.is_dir() and any(file.name not in BEGINNINGS for file in run.path.iterdir()):
            raise UserError(f"{run.path} is not empty and holds no run; take another --out")
        return
    if run.is_finished:
        raise UserError(f"{run.path} holds a finished run; take another --out, or --overwrite to replace it")
    found = list(differences(_what_matters(recipe), _what_matters(run.recipe())))
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


def _unfinished(recipe: Mapping[str, Any], *, name: str, runs: Path) -> RunFolder | None:
    for _, folder in reversed(_numbered(name, runs)):
        run = RunFolder(folder)
        if run.is_run and not run.is_finished and _what_matters(run.recipe()) == _what_matters(recipe):
            return run
    return None


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
