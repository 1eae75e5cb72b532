"""Several runs side by side: whether they can be compared, one table of all their rows, one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from understudy.analysis import Interval
from understudy.report.formatting import compact, differences, score, score_spread, with_unit
from understudy.report.row_settings import flat_settings
from understudy.report.run_data import RunData, Timing, read_run
from understudy.report.table import BESIDE, Cell, Column, Line, Table
from understudy.results.intervals import Samples, paired_difference, samples_of
from understudy.results.schema import ALONE, Results, Row
from understudy.tasks import Metric
from understudy.utils.errors import UserError
from understudy.utils.text import listed, two_digits
from understudy.utils.untrusted import plain_yaml

__all__ = ["NamedRun", "differing_settings", "joint_cautions", "joint_run", "joint_table", "joint_verdict", "read_runs"]

_MOST_RUNS = 20  # of one page


@dataclass(frozen=True, slots=True)
class NamedRun:
    """A run, and what it is called among the others."""

    name: str
    run: RunData

    @property
    def results(self) -> Results:
        """Of the run."""
        return self.run.results


def read_runs(folders: Sequence[Path]) -> list[NamedRun]:
    """Read runs that are to be looked at together.

    Raises:
        UserError: fewer than two, one twice, one that is not finished, or runs that were measured on unlike things.
    """
    if not 2 <= len(folders) <= _MOST_RUNS:
        raise UserError(f"a page of several runs takes 2 to {_MOST_RUNS} of them, got {len(folders)}")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("one run is named twice; name each once")
    runs = [NamedRun(name, read_run(folder)) for name, folder in zip(_names(folders), folders, strict=True)]
    first = runs[0]
    for other in runs[1:]:
        if unlike := list(_unlike(first.run, other.run)):
            raise UserError(
                f"{first.name} and {other.name} cannot be compared: {'; '.join(unlike)}; give runs on the same images "
                "and classes, or a page to each"
            )
    return runs


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of their paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _unlike(first: RunData, other: RunData) -> Iterator[str]:
    """What makes their scores no scores of one thing, in words."""
    a, b = first.results, other.results
    if a.task != b.task:
        yield f"one is {a.task}, the other {b.task}"
    elif a.headline_metric != b.headline_metric:
        yield f"one is scored by {a.metric.title}, the other by {b.metric.title}"
    if a.data.num_classes != b.data.num_classes:
        yield f"{a.data.num_classes} classes against {b.data.num_classes}"
    elif a.data.classes != b.data.classes:
        apart = [name for name in a.data.classes if name not in b.data.classes]
        yield f"other classes ({listed(apart, 3)})" if apart else "the same classes in another order"
    if a.split != b.split:
        yield f"one is measured on its {a.split} split, the other on its {b.split} split"
    elif a.num_images != b.num_images:
        yield f"{a.num_images:,} {a.split} images against {b.num_images:,}"
    elif first.predictions is not None and other.predictions is not None:
        if not np.array_equal(first.predictions.labels, other.predictions.labels):
            yield f"other {a.split} images (their labels differ)"
    elif a.data.name != b.data.name:
        yield f"data {a.data.name} against {b.data.name}"


def joint_run(runs: Sequence[NamedRun]) -> RunData:
    """All rows of all runs as one, for figures: rows are called "RUN: ROW"; the teacher is kept where all have one."""
    first = runs[0].run
    rows = [_renamed(row, named.name) for named in runs for row in named.results.rows]
    teachers = {named.results.teacher.model_dump_json() if named.results.teacher else "" for named in runs}
    results = first.results.model_copy(
        update={
            "rows": tuple(rows),
            "comparisons": (),
            "headline": None,
            "deployed": None,
            "seeds": max((named.results.seeds for named in runs), key=len),
            "teacher": first.results.teacher if len(teachers) == 1 else None,
        }
    )
    speeds = {(speed.model, speed.role): speed for named in runs for speed in named.run.timing.speeds}
    items = {f"{named.name}: {row}": found for named in runs for row, found in named.run.items.items()}
    return replace(first, results=results, timing=Timing(tuple(speeds.values())), items=items, epochs=(), missing=())


def _renamed(row: Row, run: str) -> Row:
    return row.model_copy(update={"name": f"{run}: {row.name}", "varied": {}})


def joint_table(runs: Sequence[NamedRun]) -> Table:
    """A line for each row of each run: its score, its lead over its own run's student alone, its teacher, its cost."""
    metric = runs[0].results.metric
    unit, epoch = metric.unit, runs[0].results.epoch_words
    beside = [one for one in runs[0].results.metrics if one.name in BESIDE.get(metric.name, ())]
    columns = (
        Column("run", "run"),
        Column("row", "row"),
        Column(metric.name, metric.title, f"{unit}, {epoch}" if unit else epoch, better=_way(metric.higher_is_better)),
        *[Column(one.name, one.title, one.unit, better=_way(one.higher_is_better)) for one in beside],
        Column("lead", "ahead of", f"{ALONE} of its run", better=_way(metric.higher_is_better)),
        Column("teacher", "teacher"),
        Column(f"teacher_{metric.name}", f"teacher's {metric.title}", unit),
        Column("agreement", "agrees with", "the teacher, %", better="high"),
        Column("parameters", "parameters"),
        Column("images_per_second", "images/s", "as measured then"),
    )
    best = _best(runs)
    lines = [
        Line(_cells(named, row, beside), "best" if best is not None and (named.name, row.name) == best[:2] else "row")
        for named in runs
        for row in named.results.rows
    ]
    empty = [column.key for i, column in enumerate(columns) if all(line.cells[i].value is None for line in lines)]
    return Table(columns, tuple(lines)).without(empty)


def _way(higher_is_better: bool) -> Any:
    return "high" if higher_is_better else "low"


def _cells(named: NamedRun, row: Row, beside: Sequence[Metric]) -> tuple[Cell, ...]:
    results, metric = named.results, named.results.metric
    found, teacher, agreement = results.score(row), results.teacher, row.summary.agreement
    speed = named.run.timing.speed_of(row.student.model, "student")
    others = row.summary.test if results.split == "test" else row.summary.scores
    return (
        Cell(named.name, named.name),
        Cell(row.name, row.name),
        Cell(score_spread(found, metric), found.mean, found.std),
        *[Cell(score_spread(s, one), s.mean, s.std) if (s := others.get(one.name)) else Cell() for one in beside],
        _lead(results, row),
        Cell(teacher.model, teacher.model) if teacher else Cell(),
        Cell(score(results.teacher_score, metric), results.teacher_score),
        Cell(f"{agreement.mean:.1f}", agreement.mean) if agreement else Cell(),
        Cell(compact(row.student.parameters), row.student.parameters),
        Cell(two_digits(speed), speed) if speed else Cell(),
    )


def _lead(results: Results, row: Row) -> Cell:
    comparison = results.comparison(row.name, ALONE)
    if comparison is None:
        return Cell()
    amount, low, high = differences(results.metric, comparison.difference, comparison.low, comparison.high)
    return Cell(f"{amount} ({low} to {high})", comparison.difference)


def _best(runs: Sequence[NamedRun]) -> tuple[str, str] | None:
    """Run and row of the best mean of all."""
    found = [(named, row) for named in runs if (row := named.results.best_row) is not None]
    if not found:
        return None
    metric = runs[0].results.metric
    named, row = max(found, key=lambda one: metric.worth(one[0].results.score(one[1]).mean))
    return named.name, row.name


def joint_verdict(runs: Sequence[NamedRun]) -> str:
    """Which row of which run is best, and whether it can be told from the best row of the next run."""
    metric = runs[0].results.metric
    found = [(named, row) for named in runs if (row := named.results.best_row) is not None]
    found.sort(key=lambda one: -metric.worth(one[0].results.score(one[1]).mean))
    if not found:
        return "No row of any run came to a number."
    (named, row), *others = found
    start = f"{row.name} of {named.name} is the best of {len(runs)} runs: {_reached(named, row)}"
    if not others:
        return f"{start}; no other run came to a number."
    other, second = others[0]
    start += f"; the best of {other.name} is {second.name} with {_reached(other, second)}"
    interval = _between(named, row, other, second)
    if interval is None:
        return f"{start}. {_why_no_interval(named, other)}, so that no paired interval tells whether that is chance."
    amount, low, high = differences(metric, interval.difference, interval.low, interval.high)
    verdict = "which may be chance" if interval.spans_zero else "more than chance explains"
    unit = "points" if metric.is_of_100 else metric.unit
    return f"{start}: {amount} {unit} apart (95 % interval {low} to {high}), {verdict}."


def _why_no_interval(named: NamedRun, other: NamedRun) -> str:
    if named.results.seeds != other.results.seeds:
        return "They have other seeds"
    return "What each image gave was not kept"


def _reached(named: NamedRun, row: Row) -> str:
    metric = named.results.metric
    return with_unit(score(named.results.score(row).mean, metric), metric)


def _between(named: NamedRun, row: Row, other: NamedRun, second: Row) -> Interval | None:
    """The paired interval over images and seeds; None where these are not the same, or not kept."""
    if named.results.seeds != other.results.seeds:
        return None
    ours, theirs = (_samples(one, of.name) for one, of in ((named, row), (other, second)))
    apart = paired_difference(ours, theirs, absent=_absent(named))
    return None if apart is None else apart.headline


def _samples(named: NamedRun, row: str) -> Samples | None:
    results, tensors = named.results, named.run.tensors
    if results.task == "classification" and row not in named.run.items:  # whose labels do not fit the classes
        return None
    return samples_of(tensors, split=results.split, row=row, seeds=results.seeds)


def _absent(named: NamedRun) -> str:
    """What a class without pixels counts in this run."""
    return str(dict(_settings(named.run.recipe)).get("segmentation.absent", "left_out"))


def joint_cautions(runs: Sequence[NamedRun]) -> list[str]:
    """In what the runs differ beside what one may want to compare."""
    questions: Mapping[str, Any] = {
        "augmentation": lambda r: r.data.augmentation or "unknown",
        "epochs": lambda r: r.epochs,
        "images to train on": lambda r: f"{r.data.num_train:,}",
        "images of a step": lambda r: r.data.batch_size or "unknown",
        "seeds": lambda r: ", ".join(map(str, r.seeds)),
        "epoch that counts": lambda r: r.epoch_words,
        "weights": lambda r: r.weights,
        "teacher": lambda r: r.teacher.model if r.teacher else "none",
    }
    said = []
    for what, ask in questions.items():
        answers = {named.name: str(ask(named.results)) for named in runs}
        if len(set(answers.values())) > 1:
            said.append(f"Unlike {what}: {'; '.join(f'{name} {answer}' for name, answer in answers.items())}.")
    return said


def differing_settings(runs: Sequence[NamedRun]) -> list[tuple[str, list[str]]]:
    """Settings of the resolved recipes that are not alike in all runs: key, and the value in each; "–" where none."""
    found = [dict(_settings(named.run.recipe)) for named in runs]
    keys = dict.fromkeys(key for settings in found for key in settings)
    return [
        (key, [settings.get(key, "–") for settings in found])
        for key in keys
        if len({settings.get(key) for settings in found}) > 1
    ]


def _settings(recipe: str) -> Iterator[tuple[str, str]]:
    try:
        found = plain_yaml(recipe, what="recipe.yaml")
    except UserError:
        return
    if isinstance(found, Mapping):  # rows stand in the table, with what each of them did further down
        yield from flat_settings({key: value for key, value in found.items() if key != "rows"})
