"""What a page says of one run, gathered for its template."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from understudy.core.image_size import size_text
from understudy.report.cautions import cautions
from understudy.report.class_numbers import class_table
from understudy.report.costs import cost_sentence
from understudy.report.formatting import compact, duration, score, with_unit
from understudy.report.images import Disagreement, Mistake, Unlearnt, disagreements, mistakes, unlearnt
from understudy.report.licences import is_exported_here, licence_notes
from understudy.report.origins import has_random_start, start_sentence
from understudy.report.page_figures import ShownFigure, shown_figures
from understudy.report.page_table import PageTable, cost_table, page_table
from understudy.report.predict_options import code_options, predict_option
from understudy.report.row_settings import RowSettings, flat_settings, row_settings
from understudy.report.run_data import RunData, Timing
from understudy.report.sentences import headline
from understudy.report.verdict import verdict
from understudy.results.schema import ModelFacts, Results, Row

__all__ = ["RunPage", "run_page"]


@dataclass(frozen=True, slots=True)
class RunPage:
    """Everything that a page shows of a run."""

    results: Results
    verdict: str
    headline: str
    cautions: tuple[str, ...]
    starts: str  # what the networks started from, where that is no caution
    table: PageTable
    costs: PageTable
    cost_sentence: str | None
    cost_figure: ShownFigure | None
    figures: tuple[ShownFigure, ...]
    best: Row | None
    disagreements: tuple[Disagreement, ...]
    why_no_images: str
    classes: PageTable | None
    mistakes: tuple[Mistake, ...]
    unlearnt: Unlearnt | None
    facts: tuple[tuple[str, str], ...]
    settings: RowSettings
    environment: tuple[tuple[str, str], ...]
    recipe: str
    missing: tuple[str, ...]
    deployed_words: str
    next_commands: tuple[str, ...]

    @property
    def has_teacher(self) -> bool:
        """Whether there is a teacher to hold students against."""
        return self.results.teacher is not None

    @property
    def num_seeds(self) -> int:
        """Of every row."""
        return len(self.results.seeds)

    @property
    def marks_best(self) -> bool:
        """Whether the table marks what is best."""
        return bool(self.table.best)

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Name and title of everything below the table, for the links."""
        found = [(figure.name, figure.title) for figure in self.figures if not figure.is_lacking]
        if self.disagreements:
            found.append(("images", "Images"))
        if self.mistakes:
            found.append(("mistakes", "Mistakes"))
        if self.next_commands:
            found.append(("use", "To use this student"))
        return [*found, ("again", "To do it again")]


def run_page(run: RunData, *, salt: str = "") -> RunPage:
    """Gather what the page of a run shows.

    Args:
        run: as it was read.
        salt: keeps the figures of several runs on one page apart.
    """
    results, best = run.results, run.results.best_row
    figures = shown_figures(run, salt=salt)
    starts, is_random = start_sentence(results), has_random_start(results)
    return RunPage(
        results=results,
        verdict=_unbroken(verdict(results)),
        headline="" if verdict(results) == headline(results) else headline(results),
        cautions=(*cautions(results), *([starts] if starts and is_random else [])),
        starts="" if is_random else starts,
        table=page_table(results, run.timing),
        costs=cost_table(results, run.timing),
        cost_sentence=cost_sentence(results, run.timing),
        cost_figure=next((one for one in figures if one.name == "cost" and not one.is_lacking), None),
        figures=tuple(one for one in figures if one.name != "cost"),
        best=best,
        disagreements=tuple(disagreements(run, best.name)) if best else (),
        why_no_images=_why_no_images(run),
        classes=class_table(run, best.name) if best else None,
        mistakes=tuple(mistakes(run, best.name)) if best else (),
        unlearnt=unlearnt(run, best.name) if best else None,
        facts=tuple(_facts(run)),
        settings=row_settings(results),
        environment=tuple(flat_settings(run.environment)),
        recipe=run.recipe,
        missing=run.missing,
        deployed_words=_deployed_words(results),
        next_commands=tuple(_next_commands(run)),
    )


def _why_no_images(run: RunData) -> str:
    """What is not there, and what would bring it; "" where an image has many predictions, whose masks are shown."""
    if run.results.task != "classification":
        return ""
    if run.predictions is None or run.predictions.teacher is None:
        return "The teacher's answers are not known: its classes are other ones, or predictions.safetensors is absent."
    if (run.folder / "disagreements.parquet").is_file():
        return "disagreements.parquet does not fit the predictions of this run."
    return (
        "There is no disagreements.parquet in the run folder: no image is seen unlike by most seeds, the images cannot "
        "be had one by one (data.streaming), or an older version trained this run."
    )


def _deployed_words(results: Results) -> str:
    deployed = results.deployed
    if deployed is None:
        return ""
    which = f"{deployed.row}, seed {deployed.seed}, the best on the validation images"
    return f"{which}, lies in {deployed.folder!r} of the run."


def _next_commands(run: RunData) -> Iterator[str]:
    """How to use the student, in lines to copy."""
    deployed = run.results.deployed
    if deployed is None or (row := run.results.row(deployed.row)) is None:
        return
    folder = shlex.quote(str(run.folder))
    option, what = predict_option(run.results.task)
    code, arguments = code_options(row.student.model)
    yield f"understudy predict {folder} IMAGES...{code}{option:<18}# {what}"
    if all(is_exported_here(row.student.model) for row in run.results.rows):
        yield f"understudy export {folder} --onnx student.onnx{code}         # a file for onnxruntime"
    yield f"student = understudy.load_student({str(run.folder)!r}{arguments})  # in Python: an nn.Module"


def _facts(run: RunData) -> Iterator[tuple[str, str]]:
    results, data = run.results, run.results.data
    sizes = [f"{data.num_train:,} images to train on", f"{data.num_val:,} to validate on"]
    sizes += [f"{data.num_test:,} to test on"] if data.num_test else []
    yield "Data", f"{data.name}: {data.num_classes} classes, {', '.join(sizes)}"
    if data.val_origin:
        yield "Validation", data.val_origin
    if results.teacher is not None:
        metric, reached = results.metric, results.teacher_score
        known = f", {metric.title} {with_unit(score(reached, metric), metric)}" if reached is not None else ""
        yield "Teacher", _model(results.teacher) + known
        for one in results.teacher.also:
            found = None if one.val is None else one.val.scores.get(metric.name)
            known = "" if found is None else f", {metric.title} {with_unit(score(found, metric), metric)}"
            yield f"Teacher of {one.head}", one.model + known
    for student in {row.student.model: row.student for row in results.rows}.values():
        yield "Student", _model(student)
    models = [*([results.teacher.model] if results.teacher else []), *(row.student.model for row in results.rows)]
    for note in licence_notes(models):
        yield "Licence", note
    batch = f" of batches of {data.batch_size}" if data.batch_size else ""
    epochs = f"{results.epochs} epochs" if results.epochs != 1 else "one epoch"
    yield "Training", f"{epochs}{batch}, seed{'s' * (len(results.seeds) > 1)} {', '.join(map(str, results.seeds))}"
    if data.augmentation:
        yield "Augmentation", _in_short(data.augmentation)
    if run.timing.run_seconds:
        yield "Took", f"{duration(run.timing.run_seconds)}{_of_which(run.timing, len(results.rows))}"
    if results.deployed is not None:
        where = f"folder {results.deployed.folder!r} of the run"
        yield "To deploy", f"{results.deployed.row}, seed {results.deployed.seed}, in the {where}"
    for note in data.notes:
        yield "Note", note


def _in_short(augmentation: str) -> str:
    """'crop (pad 4, flip)': switches without True, shares with three digits."""
    words = re.sub(r"(\w+) True\b", r"\1", re.sub(r"(\w+) False\b", r"no \1", augmentation))
    return re.sub(r"\d+\.\d{4,}", lambda found: f"{float(found[0]):.3g}", words)


def _unbroken(sentence: str) -> str:
    """The same sentence, in which no line ends between a number and its percent sign, or within top-1."""
    return sentence.replace("top-", "top\N{NON-BREAKING HYPHEN}").replace(" %", "\N{NO-BREAK SPACE}%")


def _of_which(timing: Timing, num_rows: int) -> str:
    """', of which the teacher's own training 12 s, 3 seeds of 6 rows 48 s'."""
    teacher = timing.stretch_seconds.get("teacher")
    seeds = [seconds for stretch, seconds in timing.stretch_seconds.items() if stretch != "teacher"]
    said = [] if teacher is None else [f"the teacher's own training {duration(teacher)}"]
    if seeds:
        which = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
        rows = f"{num_rows} rows" if num_rows > 1 else "one row"
        said.append(f"{which} of {rows} {duration(sum(seeds))}")
    return f", of which {', '.join(said)}" if said else ""


def _model(model: ModelFacts) -> str:
    parts = [f"{compact(model.parameters)} parameters"] if model.parameters is not None else []
    pixels = f" of {size_text(model.image_size)} px" if model.image_size is not None else ""
    parts += [f"{compact(model.macs)} MACs an image{pixels}"] if model.macs is not None else []
    parts += [model.starts_from] if model.starts_from else []
    return ", ".join([model.model, *parts])
