"""A run folder as types. Only results.json must be there; what else is missing is said, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from understudy.report.certainty import Certainty, certainty_in
from understudy.report.masks import Example, class_ious, examples_in
from understudy.results.items import item_scores
from understudy.results.reading import read_results
from understudy.results.schema import Results
from understudy.results.values import LARGEST, Count, Number, NumberOrNone, Record
from understudy.utils.errors import UserError
from understudy.utils.untrusted import lines_of, plain_json, shown, text_of, visible

__all__ = [
    "EpochRecord",
    "Predictions",
    "RunData",
    "Speed",
    "Timing",
    "epoch_records",
    "read_environment",
    "read_recipe_text",
    "read_run",
    "read_timing",
]

R = TypeVar("R", bound=Record)
MAX_BYTES = 1_000_000  # of environment.json and recipe.yaml
MOST_EPOCH_RECORDS = 200_000


class EpochTrain(Record):
    """The yardstick on one epoch's training batches."""

    task_loss: NumberOrNone = None
    distill: NumberOrNone = None  # the distill loss as it enters the step
    kl_to_teacher: NumberOrNone = None


class EpochRecord(Record):
    """One line of metrics.jsonl of kind "epoch"."""

    row: str
    seed: int
    epoch: Count
    lr: NumberOrNone = None
    train: EpochTrain = EpochTrain()
    val: dict[str, NumberOrNone] | None = None  # validation: scores by metric, and "agreement"


class Speed(Record):
    """One measured throughput: forward passes in evaluation mode."""

    model: str
    role: Literal["student", "teacher"]
    images_per_second: Number = Field(ge=0)
    lowest: NumberOrNone = None  # of several short measurements; null where there was one
    highest: NumberOrNone = None  # likewise
    threads: int | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """What the clock said."""

    speeds: tuple[Speed, ...] = ()
    run_seconds: float | None = None
    epoch_seconds: dict[str, float] = field(default_factory=dict)  # of the newest epoch, by stretch: teacher, seed0
    stretch_seconds: dict[str, float] = field(default_factory=dict)  # of all epochs, likewise

    def speed_of(self, model: str, role: Literal["student", "teacher"]) -> float | None:
        """Images per second of `model` in that role, or None where nobody measured it."""
        found = self.measured(model, role)
        return None if found is None else found.images_per_second

    def measured(self, model: str, role: Literal["student", "teacher"]) -> Speed | None:
        """Likewise, with its range."""
        return next((speed for speed in self.speeds if (speed.model, speed.role) == (model, role)), None)


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a classifier says of the headline's split, as stored: predicted classes."""

    labels: npt.NDArray[Any]  # (N,)
    teacher: npt.NDArray[Any] | None  # (N,)
    rows: dict[str, npt.NDArray[Any]]  # (S, N), seeds in the order of results.json


@dataclass(frozen=True, slots=True)
class RunData:
    """What the report reads of a run."""

    folder: Path
    results: Results
    epochs: tuple[EpochRecord, ...] = ()
    timing: Timing = Timing()
    predictions: Predictions | None = None
    certainty: Certainty | None = None  # how sure they are of it, where that was kept
    items: dict[str, npt.NDArray[Any]] = field(default_factory=dict)  # by row: (S, N), see `item_scores`
    tensors: dict[str, npt.NDArray[Any]] = field(default_factory=dict, repr=False)  # of predictions.safetensors
    ious: dict[str, npt.NDArray[Any]] = field(default_factory=dict)  # see `class_ious`
    examples: tuple[Example, ...] = ()  # of segmentation
    environment: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""
    missing: tuple[str, ...] = ()  # one sentence for each thing that is not there or could not be read


def read_run(folder: Path) -> RunData:
    """Read a run folder.

    Raises:
        UserError: results.json is missing or not readable; everything else may be absent.
    """
    results = read_results(folder)
    missing: list[str] = []
    epochs = _epochs(folder / "metrics.jsonl", results, missing)
    timing = read_timing(folder / "timing.jsonl", missing)
    tensors = _tensors(folder / "predictions.safetensors", missing)
    is_of_classes = results.task == "classification"
    predictions = _predictions(tensors, results, missing) if is_of_classes and tensors is not None else None
    return RunData(
        folder=folder,
        results=results,
        epochs=epochs,
        timing=timing,
        predictions=predictions,
        certainty=certainty_in(tensors or {}, results, len(predictions.labels)) if predictions else None,
        items=_items(tensors or {}, results) if predictions or not is_of_classes else {},
        ious={} if is_of_classes else class_ious(tensors or {}, results),
        tensors=tensors or {},
        examples=() if is_of_classes else examples_in(tensors or {}, results),
        environment=read_environment(folder / "environment.json", missing),
        recipe=read_recipe_text(folder / "recipe.yaml", missing),
        missing=tuple(missing),
    )


def read_timing(file: Path, missing: list[str] | None = None) -> Timing:
    """Speeds and the run's seconds from a timing.jsonl; what could not be read is told to `missing`."""
    missing = [] if missing is None else missing
    lines = list(_lines(file, "no speeds are shown", missing))
    # a run that was continued has timed itself in parts, and a speed measured again replaces the first
    speeds = {(s.model, s.role): s for s in (_record(Speed, x) for x in lines if x.get("kind") == "speed") if s}
    seconds = [
        float(x["seconds"]) for x in lines if x.get("kind") == "run" and isinstance(x.get("seconds"), int | float)
    ]
    epochs: dict[str, float] = {}
    of_stretch: dict[str, dict[Any, float]] = {}  # an epoch that was done again counts once
    for x in lines:
        if x.get("kind") == "epoch" and "stretch" in x and isinstance(x.get("seconds"), int | float):
            stretch = str(x["stretch"])
            epochs[stretch] = of_stretch.setdefault(stretch, {})[str(x.get("epoch"))] = float(x["seconds"])
    total = {stretch: sum(found.values()) for stretch, found in of_stretch.items()}
    return Timing(tuple(speeds.values()), sum(seconds) if seconds else None, epochs, total)


def _epochs(file: Path, results: Results, missing: list[str]) -> tuple[EpochRecord, ...]:
    rows = {row.name for row in results.rows}
    return epoch_records(file, missing, keep=lambda record: record.row in rows and record.seed in results.seeds)


def epoch_records(
    file: Path, missing: list[str], *, keep: Callable[[EpochRecord], bool] = lambda record: True
) -> tuple[EpochRecord, ...]:
    """The epochs of a metrics.jsonl that `keep` wants; what could not be read is told to `missing`."""
    # an epoch that was interrupted and done again is written twice: the later line holds
    found: dict[tuple[str, int, int], EpochRecord] = {}
    for line in _lines(file, "no curves are drawn", missing):
        record = _record(EpochRecord, line) if line.get("kind") == "epoch" else None
        if record is not None and keep(record):
            found[record.row, record.seed, record.epoch] = record
        if len(found) >= MOST_EPOCH_RECORDS:
            missing.append(f"{file.name}: only its first {MOST_EPOCH_RECORDS:,} epochs were read.")
            break
    return tuple(found.values())


_LOSS = "no figure of right and wrong images is drawn"


def _tensors(file: Path, missing: list[str]) -> dict[str, npt.NDArray[Any]] | None:
    """Everything in predictions.safetensors; None where it cannot be read."""
    if not file.is_file():
        missing.append(f"{file.name} is not in the run folder: {_LOSS}.")
        return None
    try:
        return load_file(file)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:  # of a kind numpy does not know
        missing.append(f"{file.name} could not be read ({visible(str(error))}): {_LOSS}.")
        return None


def _predictions(tensors: dict[str, npt.NDArray[Any]], results: Results, missing: list[str]) -> Predictions | None:
    split, num_classes = results.split, results.data.num_classes
    labels = tensors.get(f"{split}/labels")
    if labels is None:
        missing.append(f"predictions.safetensors holds no predictions on the {split} split: {_LOSS}.")
        return None
    unfit = [
        name for name, said in tensors.items() if name.startswith(f"{split}/") and not _fits(said, labels, num_classes)
    ]
    if unfit:
        missing.append(f"predictions.safetensors: {visible(unfit[0])} holds no class number for each image: {_LOSS}.")
        return None
    rows = {}
    for row in results.rows:
        keys = [f"{split}/{row.name}/{seed.seed}" for seed in row.seeds]
        if keys and all(key in tensors for key in keys):
            rows[row.name] = np.stack([tensors[key] for key in keys])
    return Predictions(labels, tensors.get(f"{split}/teacher"), rows)


def _items(tensors: dict[str, npt.NDArray[Any]], results: Results) -> dict[str, npt.NDArray[Any]]:
    """Scores item by item of the rows whose every seed has finite ones."""
    found = {}
    for row in results.rows:
        seeds = [seed.seed for seed in row.seeds]
        scores = item_scores(tensors, split=results.split, row=row.name, seeds=seeds)
        is_table = scores is not None and scores.ndim == 2 and scores.size > 0 and scores.dtype.kind in "bf"
        if scores is not None and is_table and bool((np.abs(scores) <= LARGEST).all()):
            found[row.name] = scores
    return found


def _fits(said: npt.NDArray[Any], labels: npt.NDArray[Any], num_classes: int) -> bool:
    """Whether these are class numbers, one for each label; -1 stands for an output that is NaN or infinite."""
    is_list_of_integers = said.ndim == 1 and said.size > 0 and said.dtype.kind in "iu" and said.shape == labels.shape
    lowest = 0 if said is labels else -1
    return is_list_of_integers and lowest <= int(said.min()) and int(said.max()) < num_classes


def read_environment(file: Path, missing: list[str]) -> dict[str, Any]:
    """Versions, hardware and command of a run; what could not be read is told to `missing`."""
    text = _text(file, "versions, hardware and command are not known", missing)
    try:
        data = shown(plain_json(text)) if text else {}
    except ValueError as error:
        missing.append(f"{file.name} could not be read ({error}).")
        return {}
    return data if isinstance(data, dict) else {}


def read_recipe_text(file: Path, missing: list[str]) -> str:
    """The text of a run's recipe; empty where it could not be read."""
    return visible(_text(file, "the settings cannot be shown whole", missing))


def _text(file: Path, loss: str, missing: list[str]) -> str:
    if not file.is_file():
        missing.append(f"{file.name} is not in the run folder: {loss}.")
        return ""
    try:
        return text_of(file, most_bytes=MAX_BYTES)
    except UserError as error:
        missing.append(f"{visible(str(error))}.")
        return ""


def _lines(file: Path, loss: str, missing: list[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a .jsonl; lines that are none (a run cut off while writing) are counted, not fatal."""
    if not file.is_file():
        missing.append(f"{file.name} is not in the run folder: {loss}.")
        return
    unread = 0
    for line in lines_of(file):
        try:
            data = shown(plain_json(line)) if line.strip() else None
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
