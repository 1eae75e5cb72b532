"""Follows a run that another process carries on, by what it writes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.status import Status

from understudy.report.formatting import loss
from understudy.report.run_data import read_timing
from understudy.report.unfinished import TEACHER, headline_in
from understudy.runs.console import Display
from understudy.runs.epoch_lines import EpochLines
from understudy.runs.folder import RunFolder
from understudy.utils.lock import is_held
from understudy.utils.text import clock
from understudy.utils.untrusted import visible

__all__ = ["AddedLines", "watch"]

PAUSE_SECONDS = 1.0  # between two looks
GRACE_SECONDS = 3.0  # for a run that has just begun, and holds its folder in a moment
SHOWN_BEFORE = 10  # epochs that were done before the watching began


def watch(run: RunFolder, *, display: Display) -> bool:
    """Show the epochs of a run as they end, until it does; whether it came to its end, and was not stopped.

    Args:
        run: the folder, which is read alone.
        display: where.
    """
    lines, epochs = AddedLines(run.metrics_file), WatchedEpochs(run, display)
    began = time.monotonic()
    status = display.console.status("") if display.width is not None else nullcontext()
    with status as shown:
        while True:
            is_over = run.is_finished  # looked at before the lines, so that the last are seen
            may_begin = time.monotonic() - began < GRACE_SECONDS
            is_stopped = not is_over and not may_begin and is_held(run.path) is False
            epochs.take(list(lines.read()), is_last=is_over or is_stopped)
            if isinstance(shown, Status):
                shown.update(epochs.now)
            if is_over or is_stopped:
                return is_over or run.is_finished
            time.sleep(PAUSE_SECONDS)


class AddedLines:
    """The lines that were added to a .jsonl since the last look; one that is cut back is gone on with from there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._place = 0

    def read(self) -> Iterator[dict[str, Any]]:
        """Every line that is whole by now, once; what is no JSON object is passed over."""
        try:
            with self._file.open("rb") as stream:
                self._place = min(self._place, stream.seek(0, 2))
                stream.seek(self._place)
                content = stream.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._place += len(whole)
        for line in whole.splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found


class WatchedEpochs:
    """The epochs of a run, put together from lines of metrics.jsonl, and shown."""

    def __init__(self, run: RunFolder, display: Display) -> None:
        self._run, self._display = run, display
        self._history: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}  # by stretch, row and epoch
        self._pending: list[Mapping[str, Any]] = []  # of one epoch, until all its rows are there
        self._lines: dict[str, EpochLines] = {}
        self._is_first_look = True
        self.now = "waiting for the first step"  # what the run is at, for a status line

    def take(self, lines: list[dict[str, Any]], *, is_last: bool = False) -> None:
        """Take what was added since the last look; show epochs that are whole, at the last look whatever there is."""
        groups = []
        for line in lines:
            if not _is_ours(line):
                continue
            if line["kind"] == "train":
                self._note(line)
            elif line["kind"] == "epoch":
                if self._pending and _place(line) != _place(self._pending[0]):
                    groups.append(self._pending)
                    self._pending = []
                self._pending.append(line)
        if self._pending and (not lines or is_last or self._rows_are_there()):
            groups.append(self._pending)
            self._pending = []
        self._show(groups)

    def _show(self, groups: list[list[Mapping[str, Any]]]) -> None:
        for i, group in enumerate(groups):
            history = self._history.setdefault(_stretch(group[0]), {})
            for line in group:
                history.setdefault(line["row"], {})[line["epoch"]] = line
            if not self._is_first_look or i >= len(groups) - SHOWN_BEFORE:
                self._show_one(group)
        if groups:
            self._is_first_look = False

    def _show_one(self, group: list[Mapping[str, Any]]) -> None:
        stretch, recipe = _stretch(group[0]), self._run.recipe()
        epochs = _epochs(recipe, stretch)
        scores = [line.get("val") or {} for line in group]
        if stretch not in self._lines:
            metric = headline_in(scores, str(recipe.get("task")))
            self._lines[stretch] = EpochLines(self._display, metric, label=_label(recipe, group[0]))
        history = {row: list(by_epoch.values()) for row, by_epoch in self._history[stretch].items()}
        seconds = read_timing(self._run.timing_file, []).epoch_seconds.get(stretch)
        left = "?" if seconds is None else clock(seconds * max(0, epochs - group[0]["epoch"]))
        self._lines[stretch].show(group, history, epochs=epochs, left=left, always=self._is_first_look)

    def _rows_are_there(self) -> bool:
        """Whether the epoch has a line for each row that the one before it had."""
        known = self._history.get(_stretch(self._pending[0]))
        return known is not None and len(self._pending) == len(known)

    def _note(self, line: Mapping[str, Any]) -> None:
        epochs = _epochs(self._run.recipe(), _stretch(line))
        self.now = visible(
            f"{_stretch(line)} · epoch {line['epoch']}/{epochs} · step {line.get('step')} · {line['row']} task loss "
            f"{loss(line.get('task_loss'))}"
        )


def _is_ours(line: Mapping[str, Any]) -> bool:
    """Whether it says of which row, seed and epoch it is."""
    has_numbers = isinstance(line.get("epoch"), int) and isinstance(line.get("seed"), int)
    return has_numbers and isinstance(line.get("row"), str) and isinstance(line.get("kind"), str)


def _stretch(line: Mapping[str, Any]) -> str:
    return TEACHER if line["row"] == TEACHER else f"seed{line['seed']}"


def _place(line: Mapping[str, Any]) -> tuple[str, int]:
    return _stretch(line), line["epoch"]


def _epochs(recipe: Mapping[str, Any], stretch: str) -> int:
    found = (recipe.get("teacher") or {}).get("train_epochs") if stretch == TEACHER else recipe.get("epochs")
    return found if isinstance(found, int) else 0


def _label(recipe: Mapping[str, Any], line: Mapping[str, Any]) -> str:
    seeds = recipe.get("seeds") or []
    if line["row"] == TEACHER or len(seeds) < 2 or line["seed"] not in seeds:
        return "row"
    return f"seed {seeds.index(line['seed']) + 1}/{len(seeds)}"
