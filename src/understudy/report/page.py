"""One self-contained HTML page about a run: nothing is loaded from elsewhere, every string is escaped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.analysis import outcomes
from understudy.core.image_size import size_text
from understudy.report.formatting import compact, duration, score, with_unit
from understudy.report.origins import has_random_start, start_sentence
from understudy.report.run_data import RunData, read_run
from understudy.report.sentences import headline
from understudy.report.table import comparison_table
from understudy.results.schema import ModelFacts, Results
from understudy.utils.files import write_atomically

__all__ = ["Mistake", "Unlearnt", "flat_settings", "mistakes", "rendered", "unlearnt", "write_page", "write_report"]

_MOST_MISTAKES = 10
_MOST_IMAGES = 60


@dataclass(frozen=True, slots=True)
class Mistake:
    """A confusion that the student makes: how often, in images per seed, and how often the teacher makes it."""

    true: str
    said: str
    student_images: float
    teacher_images: int


@dataclass(frozen=True, slots=True)
class Unlearnt:
    """Images that the teacher gets right and the student wrong under every seed, by number in the split."""

    row: str
    images: tuple[int, ...]


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page about a run folder.

    Args:
        run: a folder with results.json; other files that are missing are named on the page.
        out: where the page goes, a file or an existing folder; None: report.html in the run folder.

    Returns:
        The file that was written. The same run gives the same bytes.

    Raises:
        UserError: results.json is missing or not readable.
    """
    return write_page(_render(read_run(run)), run, out)


def write_page(content: str, run: Path, out: Path | None = None) -> Path:
    """Write a page whole or not at all; arguments and what is returned as in `write_report`."""
    target = run / "report.html" if out is None else out / "report.html" if out.is_dir() else out
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content.encode())  # and replaces a link, instead of writing to where it points
    return target


def mistakes(run: RunData, row: str) -> list[Mistake]:
    """The most frequent confusions of a row's student, and how often its teacher makes the same one.

    Counted over the pairs that occur, so a thousand classes cost no table of a million.
    """
    predictions = run.predictions
    if predictions is None or row not in predictions.rows:
        return []
    labels = predictions.labels

    def pairs(said: Any) -> Iterator[tuple[int, int]]:
        wrong = np.flatnonzero(said != labels)
        return zip(labels[wrong].tolist(), said[wrong].tolist(), strict=True)

    by_seed = predictions.rows[row]
    counted = Counter(pair for said in by_seed for pair in pairs(said))
    taught = Counter(pairs(predictions.teacher)) if predictions.teacher is not None else Counter[tuple[int, int]]()
    most = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:_MOST_MISTAKES]
    name = run.results.data.class_name
    return [Mistake(name(true), name(said), count / len(by_seed), taught[true, said]) for (true, said), count in most]


def unlearnt(run: RunData, row: str) -> Unlearnt | None:
    """Images to look at first: the teacher knows them, the student does not under any seed."""
    predictions = run.predictions
    if predictions is None or predictions.teacher is None or row not in predictions.rows:
        return None
    lists = [
        set(outcomes(said, predictions.teacher, predictions.labels).only_teacher.tolist())
        for said in predictions.rows[row]
    ]
    return Unlearnt(row, tuple(sorted(set.intersection(*lists))))


def rendered(template: str, **values: Any) -> str:
    """A template of this package, with these values escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("understudy", "report"),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name in the template is an error, not a gap on the page
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _render(run: RunData) -> str:
    from understudy.report.figures import all_plots  # with matplotlib, which nothing before the page needs

    results = run.results
    best = results.best_row
    return rendered(
        "page.html.j2",
        title=results.title or results.name,
        results=results,
        headline=headline(results),
        starts=start_sentence(results),
        starts_at_random=has_random_start(results),
        facts=list(_facts(results)),
        table=comparison_table(results, run.timing),
        plots=all_plots(run),
        best=best,
        mistakes=mistakes(run, best.name) if best else [],
        has_teacher=results.teacher is not None,
        unlearnt=unlearnt(run, best.name) if best else None,
        most_images=_MOST_IMAGES,
        settings=[(row, [_said(method) for method in row.methods], _said(row.update)) for row in results.rows],
        has_sources=any(row.settings_from for row in results.rows),
        environment=list(flat_settings(run.environment)),
        run_time=duration(run.timing.run_seconds) if run.timing.run_seconds else None,
        recipe=run.recipe,
        missing=run.missing,
    )


def _facts(results: Results) -> Iterator[tuple[str, str]]:
    data = results.data
    sizes = [f"{data.num_train:,} to train on", f"{data.num_val:,} to validate"]
    sizes += [f"{data.num_test:,} to test"] if data.num_test else []
    yield "Data", f"{data.name}: {data.num_classes} classes, {', '.join(sizes)} images"
    if data.val_origin:
        yield "Validation", data.val_origin
    if results.teacher is not None:
        metric, reached = results.metric, results.teacher_score
        known = f", {metric.title} {with_unit(score(reached, metric), metric)}" if reached is not None else ""
        yield "Teacher", _model(results.teacher) + known
    for student in {row.student.model: row.student for row in results.rows}.values():
        yield "Student", _model(student)
    batch = f" of batches of {data.batch_size}" if data.batch_size else ""
    yield "Training", f"{results.epochs} epochs{batch}, seeds {', '.join(map(str, results.seeds))}"
    if data.augmentation:
        yield "Augmentation", data.augmentation
    if results.deployed is not None:
        where = f"folder {results.deployed.folder!r} of the run"
        yield "To deploy", f"{results.deployed.row}, seed {results.deployed.seed}, in the {where}"
    for note in data.notes:
        yield "Note", note


def _model(model: ModelFacts) -> str:
    parts = [f"{compact(model.parameters)} parameters"] if model.parameters is not None else []
    pixels = f" of {size_text(model.image_size)} px" if model.image_size is not None else ""
    parts += [f"{compact(model.macs)} MACs an image{pixels}"] if model.macs is not None else []
    parts += [model.starts_from] if model.starts_from else []
    return ", ".join([model.model, *parts])


def _said(settings: Mapping[str, Any] | None) -> str:
    """'kd: temperature 4, weight 0.9'."""
    if not settings:
        return "none"
    rest = [f"{key} {_value(value)}" for key, value in settings.items() if key != "name" and value is not None]
    name = str(settings.get("name", "settings"))
    return f"{name}: {', '.join(rest)}" if rest else name


def flat_settings(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (key path, value)."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from flat_settings(value, f"{path}{key}.")
        elif value is not None:
            yield f"{path}{key}", _value(value)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
