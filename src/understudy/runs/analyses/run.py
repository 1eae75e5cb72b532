"""`understudy analyze`: what a finished run lets be seen of its students, kept piece by piece beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from torch import nn

from understudy.distributed.launch import current, device_named
from understudy.report import write_report
from understudy.runs import analyses
from understudy.runs.analyses.base import ANALYSES, Analysis, Found, Piece
from understudy.runs.analyses.kept import Kept
from understudy.runs.analyses.opened import Opened, open_run
from understudy.runs.console import Display
from understudy.runs.folder import RunFolder
from understudy.runs.reopen import recipe_of, results_of
from understudy.runs.stop import StopRequest
from understudy.runs.threads import usable_threads
from understudy.utils.errors import UserError, unknown_name
from understudy.utils.interrupted import Interrupted
from understudy.utils.lock import held
from understudy.utils.machine import cpu_threads
from understudy.utils.text import clock, plural
from understudy.utils.untrusted import plain_json, text_of

__all__ = ["AnalyzeOptions", "analysis_names", "analyze"]

for _module in iter_modules(analyses.__path__):
    if _module.name != "run":
        import_module(f"{analyses.__name__}.{_module.name}")


@dataclass(frozen=True, slots=True)
class AnalyzeOptions:
    """What is analysed, and on how much.

    Attributes:
        what: names of analyses; empty: all of them.
        num_images: at most so many of a split, evenly spread over it.
        points: of a loss landscape along each of its two directions; odd, so that the student itself is among them.
        seed: whose students; None: the run's first.
        data: images from elsewhere; None: the run's own.
    """

    what: tuple[str, ...] = ()
    num_images: int = 500
    points: int = 11
    seed: int | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        for name in self.what:
            if name not in ANALYSES:
                raise UserError(f"--what: {name!r} is {unknown_name(name, ANALYSES)}")
        if self.num_images < 2:
            raise UserError(f"--images must be 2 or more, got {self.num_images}")
        if self.points < 3 or self.points % 2 == 0:
            raise UserError(
                f"--points must be an odd number from 3 on, got {self.points}: the student is in the middle"
            )

    @property
    def chosen(self) -> list[Analysis]:
        """The analyses, the quick ones first."""
        return sorted((ANALYSES[name] for name in self.what or ANALYSES), key=lambda one: one.place)


@dataclass(frozen=True)
class _Task:
    """One piece that is still to be done."""

    analysis: Analysis
    kept: Kept
    piece: Piece
    num_pieces: int
    num_images: int  # whose forward passes it is worth
    seconds: float  # that it is going to take


def analysis_names() -> list[str]:
    """All analyses, the quick ones first."""
    return [one.name for one in sorted(ANALYSES.values(), key=lambda one: one.place)]


def analyze(
    runs: Sequence[RunFolder],
    options: AnalyzeOptions,
    *,
    allow_code: bool,
    module: nn.Module | None = None,
    display: Display,
) -> list[Path]:
    """Analyse finished runs into analysis/NAME.json of each, and write their pages anew; the pages.

    Students of one layout are moved along the same directions in all of the runs, so that their landscapes compare.

    Raises:
        UserError: a run that is not finished, or runs on other images or classes.
        Interrupted: stopped by a signal; what is done stays done, and the same call goes on from there.
    """
    _check_alike(runs)
    stop, num_done = StopRequest(), [0]

    def check() -> None:
        if stop.signal is not None:
            raise Interrupted(num_done[0], stop.signal)

    device = device_named(recipe_of(runs[0]).device)
    with stop.listening(), _one_at_a_time(runs), cpu_threads(_threads_of(runs[0])), current(device):
        tasks = []
        for run in runs:
            opened = open_run(
                run, seed=options.seed, num_images=options.num_images, points=options.points, data=options.data,
                allow_code=allow_code, module=module, check=check,
            )  # fmt: skip
            tasks += list(_tasks(opened, options, display))
        _say_how_long(tasks, display)
        with display.stretch(sum(task.num_images for task in tasks), images_per_step=1):
            num_seen = 0
            for task in tasks:
                check()
                display.update(num_seen, f"{task.analysis.title} · {task.piece.of}")
                _do(task)
                num_seen += task.num_images
                num_done[0] += 1
    return [write_report(run.path) for run in runs]


def _tasks(opened: Opened, options: AnalyzeOptions, display: Display) -> Iterator[_Task]:
    """What is still to be done of a run."""
    pace: dict[str, float] = {}
    for analysis in options.chosen:
        is_of_this = opened.recipe.task in analysis.tasks
        if not is_of_this and not options.what:
            continue  # nobody asked for it
        identity = {**opened.identity(analysis.images), "settings": dict(analysis.settings(opened))}
        kept = Kept(opened.run.analysis, analysis.name, identity)
        other = f"is of runs of {' and '.join(sorted(analysis.tasks))}, and this is one of {opened.recipe.task}"
        problem = analysis.problem(opened) if is_of_this else other
        if problem is not None:
            kept.leave_out(problem)
            display.say(f"left out  {analysis.name}: {problem}")
            continue
        pieces = list(analysis.pieces(opened))
        rest = [piece for piece in pieces if piece.key not in kept]
        for piece in rest:
            if piece.of not in pace:
                pace[piece.of] = opened.seconds_per_image(piece.of, analysis.images)
            num_images = round(piece.passes * opened.count(analysis.images))
            yield _Task(analysis, kept, piece, len(pieces), num_images, num_images * pace[piece.of])


def _do(task: _Task) -> None:
    began = time.perf_counter()
    try:
        found = task.piece.find()
    except UserError as error:
        found = Found({"problem": str(error)})
    task.kept.add(task.piece.key, found, seconds=time.perf_counter() - began, num_pieces=task.num_pieces)


def _say_how_long(tasks: Sequence[_Task], display: Display) -> None:
    if not tasks:
        display.say("everything was analysed already; the pages are written anew")
        return
    by_name: dict[str, float] = {}
    for task in tasks:
        by_name[task.analysis.name] = by_name.get(task.analysis.name, 0.0) + task.seconds
    parts = ", ".join(f"{name} {clock(seconds)}" for name, seconds in by_name.items())
    display.say(f"about {clock(sum(by_name.values()))} for {plural(len(tasks), 'piece')} of work: {parts}")


def _check_alike(runs: Sequence[RunFolder]) -> None:
    """Refuse runs whose figures would not compare, and one run given twice."""
    places = [run.path.resolve() for run in runs]
    for place, run in zip(places, runs, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{run.path} is given twice; name each run once")
    first, *others = [results_of(run) for run in runs]
    for run, found in zip(runs[1:], others, strict=True):
        for what, ours, theirs in (
            ("classes", first.data.classes or first.data.num_classes, found.data.classes or found.data.num_classes),
            ("images", (first.data.name, first.data.num_train, first.data.num_val),
             (found.data.name, found.data.num_train, found.data.num_val)),
        ):  # fmt: skip
            if ours != theirs:
                raise UserError(
                    f"{runs[0].path} and {run.path} are of other {what}, so that their figures do not compare; analyse "
                    "each by itself"
                )


@contextmanager
def _one_at_a_time(runs: Sequence[RunFolder]) -> Iterator[None]:
    """Hold every run folder."""
    if not runs:
        yield
        return
    with held(runs[0].path, what="run folder"), _one_at_a_time(runs[1:]):
        yield


def _threads_of(run: RunFolder) -> int:
    """As many as the run took."""
    try:
        return int(plain_json(text_of(run.threads_file, most_bytes=10_000))["threads"])
    except (UserError, ValueError, KeyError, TypeError):
        return recipe_of(run).threads or usable_threads()
