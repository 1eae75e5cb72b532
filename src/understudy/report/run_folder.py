"""A run folder as types. Only results.json must be there; what else is missing is said, not guessed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from understudy.report.results import Number, Record, Results, read_results

__all__ = ["EpochRecord", "Predictions", "RunFolder", "Speed", "Timing", "read_run", "read_timing"]

R = TypeVar("R", bound=Record)


class EpochTrain(Record):
    """The yardstick on one epoch's training batches."""

    task_loss: Number | None = None
    kl_to_teacher: Number | None = None
    top1: Number | None = None


class EpochVal(Record):
    """Validation after one epoch."""

    top1: Number | None = None
    agreement: Number | None = None


class EpochRecord(Record):
    """One line of metrics.jsonl of kind "epoch"."""

    row: str
    seed: int
    epoch: int
    train: EpochTrain = EpochTrain()
    val: EpochVal | None = None


class Speed(Record):
    """One measured throughput: forward passes in evaluation mode."""

    model: str
    role: Literal["student", "teacher"]
    images_per_second: float
    threads: int | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """What the clock said."""

    speeds: tuple[Speed, ...] = ()
    run_seconds: float | None = None

    def speed_of(self, model: str, role: Literal["student", "teacher"]) -> float | None:
        """Images per second of `model` in that role, or None where nobody measured it."""
        return next((s.images_per_second for s in self.speeds if (s.model, s.role) == (model, role)), None)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predicted classes on the headline's split, as stored."""

    labels: npt.NDArray[Any]  # (N,)
    teacher: npt.NDArray[Any] | None  # (N,)
    rows: dict[str, npt.NDArray[Any]]  # (S, N), seeds in the order of results.json


@dataclass(frozen=True, slots=True)
class RunFolder:
    """What the report reads of a run."""

    folder: Path
    results: Results
    epochs: tuple[EpochRecord, ...] = ()
    timing: Timing = Timing()
    predictions: Predictions | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""
    missing: tuple[str, ...] = ()  # one sentence for each thing that is not there or could not be read


def read_run(folder: Path) -> RunFolder:
    """Read a run folder.

    Raises:
        UserError: results.json is missing or not readable; everything else may be absent.
    """
    results = read_results(folder)
    missing: list[str] = []
    return RunFolder(
        folder=folder,
        results=results,
        epochs=tuple(_epochs(folder / "metrics.jsonl", missing)),
        timing=read_timing(folder / "timing.jsonl", missing),
        predictions=_predictions(folder / "predictions.safetensors", results, missing),
        environment=_environment(folder / "environment.json", missing),
        recipe=_recipe(folder / "recipe.yaml", missing),
        missing=tuple(missing),
    )


def read_timing(file: Path, missing: list[str] | None = None) -> Timing:
    """Speeds and the run's seconds from a timing.jsonl; what could not be read is told to `missing`."""
    missing = [] if missing is None else missing
    lines = list(_lines(file, "no speeds are shown", missing))
    # a run that was continued has timed itself in parts, and a speed measured again replaces the first
    speeds = {(s.model, s.role): s for s in (_record(Speed, x) for x in lines if x.get("kind") == "speed") if s}
    seconds = [x["seconds"] for x in lines if x.get("kind") == "run" and isinstance(x.get("seconds"), int | float)]
    return Timing(tuple(speeds.values()), float(sum(seconds)) if seconds else None)


def _epochs(file: Path, missing: list[str]) -> Iterator[EpochRecord]:
    # an epoch that was interrupted and done again is written twice: the later line holds
    found: dict[tuple[str, int, int], EpochRecord] = {}
    for line in _lines(file, "no curves are drawn", missing):
        record = _record(EpochRecord, line) if line.get("kind") == "epoch" else None
        if record is not None:
            found[record.row, record.seed, record.epoch] = record
    return iter(found.values())


def _predictions(file: Path, results: Results, missing: list[str]) -> Predictions | None:
    loss = "no figure of right and wrong images is drawn"
    try:
        tensors = load_file(file)
    except FileNotFoundError:
        missing.append(f"{file.name} is not in the run folder: {loss}.")
        return None
    except SafetensorError as error:
        missing.append(f"{file.name} could not be read ({error}): {loss}.")
        return None
    split = results.split
    if f"{split}/labels" not in tensors:
        missing.append(f"{file.name} holds no predictions on the {split} split: {loss}.")
        return None
    rows = {}
    for row in results.rows:
        keys = [f"{split}/{row.name}/{seed.seed}" for seed in row.seeds]
        if keys and all(key in tensors for key in keys):
            rows[row.name] = np.stack([tensors[key] for key in keys])
    return Predictions(tensors[f"{split}/labels"], tensors.get(f"{split}/teacher"), rows)


def _environment(file: Path, missing: list[str]) -> dict[str, Any]:
    text = _text(file, "versions, hardware and command are not known", missing)
    try:
        data = json.loads(text) if text else {}
    except ValueError as error:
        missing.append(f"{file.name} could not be read ({error}).")
        return {}
    return data if isinstance(data, dict) else {}


def _recipe(file: Path, missing: list[str]) -> str:
    return _text(file, "the settings cannot be shown whole", missing)


def _text(file: Path, loss: str, missing: list[str]) -> str:
    if not file.exists():
        missing.append(f"{file.name} is not in the run folder: {loss}.")
        return ""
    return file.read_text(encoding="utf-8", errors="replace")


def _lines(file: Path, loss: str, missing: list[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a .jsonl; lines that are none (a run cut off while writing) are counted, not fatal."""
    unread = 0
    for line in _text(file, loss, missing).splitlines():
        try:
            data = json.loads(line)
        except ValueError:
            data = None
        if isinstance(data, dict):
            yield data
        elif line.strip():
            unread += 1
    if unread:
        missing.append(f"{file.name}: {unread} line{'s' if unread > 1 else ''} could not be read.")


def _record(kind: type[R], data: dict[str, Any]) -> R | None:
    try:
        return kind.model_validate(data)
    except ValidationError:
        return None
