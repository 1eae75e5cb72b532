"""The folder of one run: what lies in it, and how it is written."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from understudy.recipes.schema import recipe_from
from understudy.runs.identity import differing_parts
from understudy.trackers.base import METRICS_FILE
from understudy.utils import files
from understudy.utils.errors import UserError, differences
from understudy.utils.lock import LOCK_FILE
from understudy.utils.text import json_text
from understudy.utils.untrusted import given_path, plain_json, plain_yaml, text_of

__all__ = ["WRITTEN", "RunFolder", "open_run_folder"]

WRITTEN = (  # everything that a run leaves in its folder
    "recipe.yaml",
    "environment.json",
    METRICS_FILE,
    "trackers",
    "probes",
    "analysis",
    "timing.jsonl",
    "results.json",
    "predictions.safetensors",
    "predictions.parquet",
    "disagreements.parquet",
    "memory_format.json",
    "threads.json",
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
MAX_RECIPE_BYTES = 1_000_000
MAX_RESULTS_BYTES = 64_000_000
HARMLESS = (
    ("teacher", "allow_weak"),
    ("log_every",),
    ("trackers",),
    ("checkpoint_minutes",),
    ("checkpoint_steps",),
    ("device",),
    ("threads",),  # where it is not set, a run goes on with as many as it began with
    ("data", "workers"),
    ("capture",),
    ("on_nan",),  # what it changes, it changes after the last checkpoint
    ("bank", "num_views"),  # a run goes on with those that it began with
)  # a run may go on with others of these


class RunFolder:
    """Paths and plain files of a run. A run is finished once it has its results."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.metrics_file = path / METRICS_FILE
        self.results_file = path / "results.json"
        self.environment_file = path / "environment.json"
        self.timing_file = path / "timing.jsonl"
        self.predictions_file = path / "predictions.safetensors"
        self.sample_table_file = path / "predictions.parquet"  # a line for each evaluated image
        self.disagreements_file = path / "disagreements.parquet"  # small copies of the images to look at first
        self.report_file = path / "report.html"
        self.memory_format_file = path / "memory_format.json"  # where the recipe leaves it to a measurement
        self.decoder_file = path / "decoder.json"  # likewise
        self.threads_file = path / "threads.json"  # how many CPU threads it takes
        self.handed_over_file = path / "handed_over.json"  # of networks and data that Python gave
        self.checkpoints = path / "checkpoints"
        self.teacher = path / "teacher"  # where the run trained it
        self.probes = path / "probes"  # what was looked at while students trained, a file for each probe
        self.analysis = path / "analysis"  # what `understudy analyze` found out, likewise
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
        return _as_before(found) if isinstance(found, Mapping) else {}

    @property
    def lacks_exif_rotation(self) -> bool:
        """Whether the run was begun before images were turned upright: none of its images are."""
        try:
            found = plain_yaml(text_of(self.recipe_file, most_bytes=MAX_RECIPE_BYTES), what=str(self.recipe_file))
        except UserError:
            return False
        data = found.get("data") if isinstance(found, Mapping) else None
        return isinstance(data, Mapping) and "exif_rotation" not in data

    def handed_over(self) -> dict[str, Any]:
        """What tells networks and data that Python gave; empty where a recipe names them."""
        try:
            found = plain_json(text_of(self.handed_over_file, most_bytes=MAX_RECIPE_BYTES))
        except (UserError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def seed_file(self, seed: int) -> Path:
        """The record that marks a seed as done."""
        return self.checkpoints / f"seed{seed}.json"

    def epochs_of(self, seed: int) -> int | None:
        """After how many epochs a seed was done; None where it is not."""
        try:
            found = plain_json(text_of(self.seed_file(seed), most_bytes=MAX_RESULTS_BYTES))
            return int(found["lengths"][-1])
        except (UserError, ValueError, TypeError, LookupError):
            return None

    def differences(self, recipe: Mapping[str, Any], handed_over: Mapping[str, Any]) -> list[str]:
        """Every setting, and everything that Python gave, in which this run is another, a line each."""
        settings = differences(_what_matters(recipe), _what_matters(_completed(self.recipe())))
        components = [f"  {part}   another one" for part in differing_parts(handed_over, self.handed_over())]
        return [*settings, *components]

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
            files.write_atomically(
                self.recipe_file, yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True).encode()
            )
        except OSError as error:
            raise UserError(f"cannot write to the run folder {self.path}: {error.strerror}") from None

    def write_json(self, file: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the run whole or not at all."""
        files.write_atomically(file, json_text(content, indent=1).encode())

    def note_threads(self, threads: int) -> None:
        """Have environment.json say with how many CPU threads the run goes on."""
        environment = plain_json(text_of(self.environment_file, most_bytes=MAX_RECIPE_BYTES))
        if isinstance(environment, dict) and isinstance(environment.get("hardware"), dict):
            environment["hardware"]["threads"] = threads
            self.write_json(self.environment_file, environment)

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


def _completed(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe with the defaults of settings that it lacks, as one that an older version wrote does."""
    try:
        return recipe_from(recipe).as_dict()
    except UserError:
        return recipe


def _as_before(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with what had no setting yet when it was written, as it was then."""
    data = recipe.get("data")
    if not isinstance(data, Mapping) or "exif_rotation" in data:
        return dict(recipe)
    return {**recipe, "data": {**data, "exif_rotation": False}}


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
