"""What there is so far of a run that is not finished: a sentence, a table, a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.report.formatting import loss, score
from understudy.report.page import rendered, write_page
from understudy.report.row_settings import flat_settings
from understudy.report.run_data import (
    EpochRecord,
    Timing,
    epoch_records,
    read_environment,
    read_recipe_text,
    read_timing,
)
from understudy.report.table import Cell, Column, Line, Table
from understudy.tasks import TASKS, Metric
from understudy.utils.errors import UserError
from understudy.utils.text import clock
from understudy.utils.untrusted import plain_yaml

__all__ = ["Unfinished", "headline_in", "read_unfinished", "unfinished_table", "write_unfinished"]

TEACHER = "teacher"  # the row of the teacher's own training
NOT_SCORES = ("agreement",)  # what an epoch's scores hold beside those of the task


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run on its way, or one that was stopped."""

    name: str
    metric: Metric
    epochs: int  # of each seed
    seeds: tuple[int, ...]
    teacher_epochs: int  # of the teacher's own training; 0 where it is not trained here
    records: tuple[EpochRecord, ...] = ()
    timing: Timing = field(default_factory=Timing)
    is_running: bool | None = None  # None where nothing tells
    environment: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""
    missing: tuple[str, ...] = ()

    @property
    def series(self) -> list[tuple[str, int]]:
        """Row and seed of everything that has an epoch, the teacher's own training first."""
        return list(dict.fromkeys((record.row, record.seed) for record in self.records))

    def of(self, row: str, seed: int) -> list[EpochRecord]:
        """The epochs of a row and seed."""
        return [record for record in self.records if (record.row, record.seed) == (row, seed)]

    @property
    def seconds_left(self) -> float | None:
        """By the newest epochs that were timed; None where nothing tells, such as before a student's first epoch."""
        done = dict.fromkeys(self.seeds, 0)
        for record in self.records:
            if record.row != TEACHER and record.seed in done:
                done[record.seed] = max(done[record.seed], record.epoch)
        timed = [seconds for stretch, seconds in self.timing.epoch_seconds.items() if stretch != TEACHER]
        return timed[-1] * sum(self.epochs - epochs for epochs in done.values()) if timed else None

    @property
    def sentence(self) -> str:
        """'epoch 7 of 30 is done, seed 2 of 3; the run goes on, about 0:12:30 are left.'"""
        return f"{self._reached()}; {self._state()}."

    def _reached(self) -> str:
        students = [record for record in self.records if record.row != TEACHER]
        if not self.records:
            return "no epoch is done yet"
        if not students:
            return f"the teacher's own training, epoch {self.records[-1].epoch} of {self.teacher_epochs} is done"
        last = students[-1]
        which = (
            f" of seed {last.seed} ({self.seeds.index(last.seed) + 1} of {len(self.seeds)})"
            if len(self.seeds) > 1
            else ""
        )
        return f"epoch {last.epoch} of {self.epochs}{which} is done"

    def _state(self) -> str:
        left = "" if self.seconds_left is None else f", about {clock(self.seconds_left)} left"
        if self.is_running:
            return f"the run goes on{left}"
        again = f"the command that began it goes on from here{left}"
        return f"it was stopped, and {again}" if self.is_running is False else again


def read_unfinished(folder: Path, *, is_running: bool | None = None) -> Unfinished:
    """Read what a run has left so far; everything may be absent.

    Args:
        folder: of the run.
        is_running: whether somebody writes to it.
    """
    missing: list[str] = []
    text = read_recipe_text(folder / "recipe.yaml", missing)
    recipe = _plain(text)
    records = epoch_records(folder / "metrics.jsonl", missing)
    teacher = recipe.get("teacher")
    return Unfinished(
        name=folder.resolve().name,
        metric=headline_in([record.val or {} for record in records], str(recipe.get("task"))),
        epochs=_count(recipe.get("epochs")) or max((record.epoch for record in records), default=0),
        seeds=tuple(_seeds(recipe.get("seeds"), records)),
        teacher_epochs=_count(teacher.get("train_epochs")) if isinstance(teacher, Mapping) else 0,
        records=tuple(records),
        timing=read_timing(folder / "timing.jsonl", []),
        is_running=is_running,
        environment=read_environment(folder / "environment.json", missing),
        recipe=text,
        missing=tuple(missing),
    )


def headline_in(scores: Sequence[Mapping[str, Any]], task: str) -> Metric:
    """The metric that a task's rows are compared by, or the first that there is where these are of another task."""
    known = TASKS.get(task, next(iter(TASKS.values())))
    headline = next(metric for metric in known.metrics if metric.name == known.headline)
    names = [name for found in scores for name in found if name not in NOT_SCORES]
    return headline if headline.name in names or not names else Metric(names[0], names[0], higher_is_better=True)


def unfinished_table(found: Unfinished) -> Table:
    """A line for each row and seed that has begun: its newest epoch, and its best so far."""
    metric = found.metric
    columns = (
        Column("row", "row"),
        Column("seed", "seed"),
        Column("epoch", "epoch"),
        Column("lr", "lr"),
        Column("task_loss", "task loss", "(train)"),
        Column("distill", "distill loss", "(train)"),
        Column(metric.name, metric.title, ", ".join(word for word in (metric.unit, "validation") if word)),
        Column(f"best_{metric.name}", "best", "so far"),
        Column("best_epoch", "at", "epoch"),
    )
    lines = tuple(_line(found, row, seed) for row, seed in found.series)
    return Table(columns, lines)


def write_unfinished(
    found: Unfinished, folder: Path, out: Path | None = None, *, refresh_seconds: int | None = None
) -> Path:
    """Write the page about a run that is not finished, marked as such.

    Args:
        found: what there is of it.
        folder: of the run.
        out: as in `write_report`.
        refresh_seconds: after which a browser loads the page anew; None: never.
    """
    from understudy.report.figures.curves import curves_of  # with matplotlib
    from understudy.report.figures.style import narrow
    from understudy.report.page_figures import shown
    from understudy.report.page_table import plain_table

    rows = list(dict.fromkeys(row for row, _ in found.series))
    plot = curves_of(found.records, rows, found.metric, num_seeds=len(found.seeds))
    with narrow():
        small = curves_of(found.records, rows, found.metric, num_seeds=len(found.seeds))
    content = rendered(
        "unfinished.html.j2",
        title=f"{found.name} (unfinished)",
        sentence=found.sentence,
        table=plain_table(unfinished_table(found), rows),
        figure=None if plot is None else shown(plot, small),
        refresh_seconds=refresh_seconds,
        environment=list(flat_settings(found.environment)),
        recipe=found.recipe,
        missing=found.missing,
    )
    return write_page(content, folder, out)


def _line(found: Unfinished, row: str, seed: int) -> Line:
    records, metric = found.of(row, seed), found.metric
    last = records[-1]
    scored = [(value, one.epoch) for one in records if (value := (one.val or {}).get(metric.name)) is not None]
    finite = [one for one in scored if math.isfinite(one[0])]
    best = max(finite, key=lambda one: metric.worth(one[0]), default=(None, None))
    epochs = found.teacher_epochs if row == TEACHER else found.epochs
    now = (last.val or {}).get(metric.name)
    cells = (
        Cell(row, row),
        Cell(str(seed), seed),
        Cell(f"{last.epoch}/{epochs}", last.epoch),
        Cell() if last.lr is None else Cell(f"{last.lr:.3g}", last.lr),
        Cell(loss(last.train.task_loss), last.train.task_loss),
        Cell(loss(last.train.distill), last.train.distill),
        Cell(score(now, metric), now),
        Cell(score(best[0], metric), best[0]),
        Cell() if best[1] is None else Cell(str(best[1]), best[1]),
    )
    return Line(cells, "teacher" if row == TEACHER else "row")


def _plain(text: str) -> Mapping[str, Any]:
    try:
        found = plain_yaml(text, what="recipe.yaml")
    except UserError:
        return {}
    return found if isinstance(found, Mapping) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _seeds(value: Any, records: Sequence[EpochRecord]) -> Iterator[int]:
    listed = [seed for seed in value if isinstance(seed, int)] if isinstance(value, list) else []
    yield from dict.fromkeys([*listed, *(record.seed for record in records if record.row != TEACHER)])
