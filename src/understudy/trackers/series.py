"""What trackers of other tools share: a run as series of numbers, one for each row and seed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from understudy.trackers.base import Tracker
from understudy.utils.text import json_text

__all__ = ["Series", "final_scores", "flat", "numbers", "series_name", "settings_of"]

Handle = TypeVar("Handle")
OF_PLACE = ("kind", "seed", "row", "epoch", "step", "steps")  # what a line says of where it stands
TEACHER = "teacher"  # the row of the teacher's own training


def series_name(record: Mapping[str, Any]) -> str:
    """'kd+dot/seed0' of a line; 'teacher' of the teacher's own training."""
    return TEACHER if record["row"] == TEACHER else f"{record['row']}/seed{record['seed']}"


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line: 'train/task_loss', 'epoch_mean/task_loss', 'val/top1', 'probe/NAME/KEY', 'lr'."""
    found: dict[str, float] = {}
    if record["kind"] == "probe":
        return {f"probe/{record['probe']}/{key}": float(value) for key, value in record["values"].items()}
    for key, value in flat({key: value for key, value in record.items() if key not in OF_PLACE}):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        is_of_val = key.startswith(("val/", "val_raw/"))
        if record["kind"] == "epoch" and key == "lr":
            continue  # the last interval has said so
        prefix = "" if is_of_val or key == "lr" else "epoch_mean/" if record["kind"] == "epoch" else "train/"
        found[f"{prefix}{key.removeprefix('train/')}"] = float(value)
    if record.get("epoch") is not None:
        found["epoch"] = float(record["epoch"])
    return found


def flat(values: Mapping[str, Any], path: str = "", *, by: str = "/") -> Iterator[tuple[str, Any]]:
    """Nested plain values by key path; lists stay whole."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{key}{by}", by=by)
        else:
            yield f"{path}{key}", value


def settings_of(recipe: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The recipe as flat settings, with those of a series' own row laid on it, where the recipe writes it out."""
    row = name.rpartition("/seed")[0]
    rows = [one for one in recipe.get("rows") or [] if isinstance(one, Mapping) and one.get("name") == row]
    whole = {key: value for key, value in recipe.items() if key not in ("rows", "trackers", "published")}
    for own in rows:
        whole |= {key: own[key] for key in ("method", "task_weight") if key in own}
        whole["update"] = {**(whole.get("update") or {}), **(own.get("update") or {})}
    methods = whole.get("method") or []
    methods = [methods] if isinstance(methods, Mapping) else methods
    if isinstance(methods, list):  # by name, so that their settings are columns of their own
        whole["method"] = {one["name"]: one for one in methods if isinstance(one, Mapping)} or "none"
    found = {key: value for key, value in flat(whole, by=".") if value is not None}
    if row:
        found |= {"row": row, "seed": int(name.rpartition("/seed")[2])}
    return {key: json_text(value) if isinstance(value, list | tuple) else value for key, value in found.items()}


def final_scores(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What a finished run came to: 'final/val/top1', 'final/test/top1', 'final/epoch' and others, by series."""
    found: dict[str, dict[str, float]] = {}
    for row in results.get("rows", []):
        for seed in row.get("seeds", []):
            scores = {"val": seed.get("selected"), "test": seed.get("test"), "best": seed.get("best")}
            said = dict(flat({split: one.get("scores", {}) for split, one in scores.items() if one}))
            said |= {"epoch": seed["selected"].get("epoch"), "best/epoch": seed["best"].get("epoch")}
            found[f"{row['name']}/seed{seed['seed']}"] = {
                f"final/{key}": float(value)
                for key, value in said.items()
                if isinstance(value, int | float) and math.isfinite(value)
            }
    return found


class Series(Tracker, Generic[Handle]):
    """Base of trackers whose tool never takes back what it was given: one of its runs for each row and seed.

    What was given is noted in trackers/NAME.jsonl, and not given again: a run that is resumed repeats, to the same
    numbers, the steps after its checkpoint.
    """

    name: ClassVar[str] = ""

    def start(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        """Read what earlier calls gave."""
        self.folder, self.recipe = folder, recipe
        self._open_runs: dict[str, Handle] = {}
        self.ids: dict[str, str] = {}  # of the tool's runs, by series; one that is empty names the run as a whole
        self._given: dict[tuple[str, str], int] = {}
        self._notes = folder / "trackers" / f"{self.name}.jsonl"
        self._notes.parent.mkdir(exist_ok=True)
        for line in self._notes.read_text(encoding="utf-8").splitlines() if self._notes.is_file() else []:
            try:
                note = json.loads(line)
            except ValueError:  # the call that wrote it was killed
                continue
            if "id" in note:
                self.ids[note["series"]] = note["id"]
            else:
                self._given[note["series"], note["kind"]] = note["step"]

    def log(self, record: Mapping[str, Any]) -> None:
        """Give the line's numbers to the run of its row and seed, unless an earlier call has."""
        if "step" not in record or record["kind"] == "rollback":
            return
        series, kind = series_name(record), record["kind"]
        if record["step"] <= self._given.get((series, kind), -1):
            return
        self.give(self.run_of(series), numbers(record), record["step"])
        self._given[series, kind] = record["step"]
        self._note({"series": series, "kind": kind, "step": record["step"]})

    def finish(self, results: Mapping[str, Any] | None) -> None:
        """Give what a finished run came to, and close all runs."""
        for series, scores in final_scores(results or {}).items():
            self.give_final(self.run_of(series), scores)
        while self._open_runs:
            series, run = self._open_runs.popitem()
            self.close(run, is_over=results is not None)

    def run_of(self, series: str) -> Handle:
        """The tool's run of a series: open, opened again, or begun."""
        if series not in self._open_runs:
            self._open_runs[series] = self.open(series, settings_of(self.recipe, series))
        return self._open_runs[series]

    def keep_id(self, series: str, id: str) -> str:
        """Note the id of a run that was begun, for later calls."""
        self.ids[series] = id
        self._note({"series": series, "id": id})
        return id

    def open(self, series: str, settings: Mapping[str, Any]) -> Handle:
        """Go on with the tool's run whose id is in `ids`, or begin one and `keep_id`."""
        raise NotImplementedError

    def give(self, run: Handle, values: Mapping[str, float], step: int) -> None:
        """Numbers of one step."""
        raise NotImplementedError

    def give_final(self, run: Handle, values: Mapping[str, float]) -> None:
        """Numbers of the whole run."""
        raise NotImplementedError

    def close(self, run: Handle, *, is_over: bool) -> None:
        """Wait until the tool has everything; `is_over`: the run is finished, else it was stopped."""
        raise NotImplementedError

    def _note(self, note: Mapping[str, Any]) -> None:
        with self._notes.open("a", encoding="utf-8") as stream:
            stream.write(json_text(note) + "\n")
