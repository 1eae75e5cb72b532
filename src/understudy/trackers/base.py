"""Trackers: who keeps the lines that a run measures, each in its way. metrics.jsonl is the first, and always on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from understudy.trackers.jsonl import MetricsFile
from understudy.utils import files
from understudy.utils.errors import UserError, shortened_repr, unknown_name
from understudy.utils.installed import register

__all__ = [
    "ALWAYS",
    "METRICS_FILE",
    "TRACKERS",
    "JsonLines",
    "Tracker",
    "Trackers",
    "refuse_absent_packages",
    "tracker_names",
]

Result = TypeVar("Result")

TRACKERS: dict[str, type[Tracker]] = {}
ALWAYS = "jsonl"  # the tracker of every run, whatever its recipe says
METRICS_FILE = "metrics.jsonl"


class Tracker:
    """Base of every tracker. One is made and started by each call that carries a run on, in its first process alone.

    A subclass is registered by `class Mine(Tracker, name="mine")`, and takes part where a recipe's `trackers` name it.
    What it writes into the run folder belongs under trackers/ there. One that fails is left out of the rest of the
    call, with a warning; no training stops for it.
    """

    name: ClassVar[str]
    package: ClassVar[str | None] = None  # that it writes to, imported in `start`; None: nothing but this one
    note: str | None = None  # what a person should know once it has started

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is None:
            return
        register(TRACKERS, name, cls, kind="a tracker")
        cls.name = name

    def start(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        """Before the first line of this call: it begins the run, or carries on what an earlier call began.

        Args:
            folder: of the run.
            recipe: resolved, as plain values.
        """

    def log(self, record: Mapping[str, Any]) -> None:
        """Keep one line: plain values, as docs/own-parts.md describes them."""
        raise NotImplementedError(f"tracker {self.name!r} defines no log")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, to come back to this very line: plain values. What it counts on is safe by then."""
        return {}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Forget what came after the line at which `state` was asked for; the run goes on from there.

        Called after `start` where a checkpoint is gone on from, and within a call where steps are taken back.
        """

    def finish(self, results: Mapping[str, Any] | None) -> None:
        """After the last line of this call: `results` as results.json has them, None where the run is not over."""


class JsonLines(Tracker, name=ALWAYS):
    """metrics.jsonl: one line per interval and row, one per epoch and row; cut back to where a resumed run stands."""

    def start(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        """Open the file, where it is not there yet."""
        self._metrics = MetricsFile(folder / METRICS_FILE)

    def log(self, record: Mapping[str, Any]) -> None:
        """Add a line to the file."""
        self._metrics.write(record)

    def state(self) -> dict[str, Any]:
        """The bytes so far, which are on the disk."""
        files.to_disk(self._metrics.file)
        return {"bytes": self._metrics.size}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Cut the file back.

        Raises:
            UserError: it is shorter than it was.
        """
        missing = state["bytes"] - self._metrics.size
        if missing > 0:
            raise UserError(
                f"{self._metrics.file} lacks {missing:,} bytes that the newest checkpoint knows of; put the file "
                "back as it was, or start afresh with --overwrite"
            )
        self._metrics.cut_back(state["bytes"])


class Trackers:
    """All trackers of a run as one; each has its own entry in the state.

    Whatever one of them raises, but for `metrics.jsonl`, is told once and ends its part in this call alone.

    Args:
        names: as `tracker_names` gives them.
        folder: of the run.
        recipe: resolved, as plain values.
        say: is told of one that failed.

    Raises:
        UserError: a tracker cannot start for a reason that a person can mend.
    """

    def __init__(
        self,
        names: Iterable[str],
        folder: Path,
        recipe: Mapping[str, Any],
        *,
        say: Callable[[str], None] = warnings.warn,
    ) -> None:
        self._say = say
        self._trackers = [TRACKERS[name]() for name in names]
        self._known_states: dict[str, dict[str, Any]] = {}
        for tracker in list(self._trackers):
            self._guarded(tracker, partial(tracker.start, folder, recipe), mendable=True)
            if tracker.note:
                say(f"note     {tracker.name}: {tracker.note}")

    def log(self, record: Mapping[str, Any]) -> None:
        """Give every tracker the line."""
        for tracker in list(self._trackers):
            self._guarded(tracker, partial(tracker.log, record))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, by tracker; of one that failed since, what it said last."""
        for tracker in list(self._trackers):
            if (state := self._guarded(tracker, tracker.state)) is not None:
                self._known_states[tracker.name] = state
        return dict(self._known_states)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Put every tracker back; one that the run did not have by then begins here."""
        for tracker in list(self._trackers):
            if tracker.name in state:
                self._guarded(tracker, partial(tracker.resume, state[tracker.name]))

    def finish(self, results: Mapping[str, Any] | None) -> None:
        """Tell every tracker that this call is over."""
        for tracker in list(self._trackers):
            self._guarded(tracker, partial(tracker.finish, results))

    def _guarded(self, tracker: Tracker, call: Callable[[], Result], *, mendable: bool = False) -> Result | None:
        """What the call gives; None where it failed, and the tracker is left out from here on."""
        if tracker.name == ALWAYS:
            return call()
        try:
            return call()
        except Exception as error:  # whatever a library or a network may raise
            if mendable and isinstance(error, UserError):
                raise
            self._trackers.remove(tracker)
            reason = shortened_repr(str(error))
            self._say(
                f"warning  tracker {tracker.name} failed and is left out from here on; training goes on "
                f"({type(error).__name__}: {reason})"
            )
            return None


def refuse_absent_packages(names: Iterable[str]) -> None:
    """Say before anything is trained what is not installed; nothing is imported for it.

    Raises:
        UserError: a tracker's package is not there; the text says how to install it.
    """
    absent = [name for name in names if not _is_installed(TRACKERS[name].package)]
    if absent:
        packages = " and ".join(f"{name} needs {TRACKERS[name].package}" for name in absent)
        extras = [name for name in absent if TRACKERS[name].__module__.startswith("understudy.")]
        others = [str(TRACKERS[name].package) for name in absent if name not in extras]
        wanted = " ".join([*([f"'understudy[{','.join(extras)}]'"] if extras else []), *others])
        raise UserError(f"trackers: {packages}, which is not installed; install with: pip install {wanted}")


def _is_installed(package: str | None) -> bool:
    return package is None or find_spec(package) is not None


def tracker_names(names: Iterable[str]) -> tuple[str, ...]:
    """The trackers of a run: the one that is always on, then those that are named, each once.

    Raises:
        UserError: no such tracker; the text names the nearest one, or lists them.
    """
    wanted = tuple(dict.fromkeys([ALWAYS, *names]))
    for name in wanted:
        if name not in TRACKERS:
            raise UserError(f"{name!r} is {unknown_name(name, TRACKERS)}")
    return wanted
