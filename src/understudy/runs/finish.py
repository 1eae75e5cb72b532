"""What a finished run leaves: predictions and results of all seeds, the student to deploy, the page."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from understudy.core.image_size import height_and_width
from understudy.data.loaders.dense import MOST_PIXELS
from understudy.data.sources.found import BadImages
from understudy.models.cost import images_within, throughput
from understudy.report import headline
from understudy.results.schema import Deployed, Headline, Results, Row, Teacher
from understudy.results.seed_record import SeedRecord
from understudy.runs.cards import write_cards
from understudy.runs.collect import assemble, scored_teacher
from understudy.runs.components import Components
from understudy.runs.context import Execution
from understudy.runs.example_boxes import example_images
from understudy.runs.folder import RunFolder
from understudy.runs.further_teachers import scored_further_teachers
from understudy.runs.sample_table import write_disagreements, write_sample_table
from understudy.runs.seeds import kept_seed, save_predictions
from understudy.tasks.base import is_dense
from understudy.utils.machine import peak_memory_gib

__all__ = ["finish"]

PASS_SECONDS = 2.0  # that a pass may last which is timed: a large teacher on a CPU would take minutes


def finish(execution: Execution) -> None:
    """Put the seeds together: predictions, the table of images, results, the student to deploy, speeds, the page."""
    components, run = execution.components, execution.run
    kept = [kept_seed(run, seed) for seed in execution.recipe.seeds]
    records = [record for record, _ in kept]
    predictions: dict[str, Tensor] = {}
    for split, evaluation in execution.teacher.items():
        predictions |= evaluation.kept_as(split, "teacher")
    for _, of_seed in kept:
        predictions |= of_seed
    results = assemble(
        components,
        execution.rows,
        name=run.path.name,
        seeds={row.name: [record.rows[row.name].record for record in records] for row in execution.rows},
        students={name: row.student for record in records for name, row in record.rows.items()},
        teacher=_teacher(execution),
        predictions=predictions,
        notes=list(_notes(execution, records)),
    )
    predictions |= example_images(predictions, results, components.data)
    save_predictions(predictions, run.predictions_file)
    write_sample_table(predictions, results, components.data, run.sample_table_file)
    write_disagreements(predictions, results, components.data, run.disagreements_file)
    best = results.best_row or results.rows[0]
    write_cards(run, results)
    told = {"headline": Headline(row=best.name, sentence=headline(results)), "deployed": _deploy(run, results, best)}
    _time_models(execution)
    run.write_json(run.results_file, results.model_copy(update=told).as_dict())


def _teacher(execution: Execution) -> Teacher | None:
    teacher = execution.components.teacher
    if teacher is None:
        return None
    also = scored_further_teachers(execution.components, execution.further_teachers)
    return scored_teacher(teacher.facts(), execution.teacher).model_copy(update={"also": also})


def _notes(execution: Execution, records: Sequence[SeedRecord]) -> Iterator[str]:
    """What this run met; images that it could not read are told at once."""
    if skipped := {image for record in records for image in record.skipped}:
        note = BadImages(sorted(skipped), ("image cannot be read", "images cannot be read")).note()
        execution.display.say(note)
        yield note
    lengths = {length for record in records for length in record.lengths}
    if len(lengths) > 1:
        yield _length_note(sorted(lengths))


def _length_note(lengths: Sequence[int]) -> str:
    """What became of a run that went on beyond its end."""
    later = [f"from epoch {begun + 1} on as a run of {length}" for begun, length in pairwise(lengths)]
    return f"learning rates: first as a run of {lengths[0]} epoch{'s' * (lengths[0] > 1)}, then {', then '.join(later)}"


def _deploy(run: RunFolder, results: Results, row: Row) -> Deployed:
    """Copy the row's best seed, on the validation images, to where it is deployed from."""
    best = max(row.seeds, key=lambda seed: results.metric.worth(seed.selected.of(results.metric)))
    partial = run.path / ".student.partial"
    for leftover in (partial, run.student):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(run.students / row.name / f"seed{best.seed}", partial)
    partial.rename(run.student)
    return Deployed(row=row.name, seed=best.seed, folder=run.student.name)


def _timed_images(components: Components) -> int:
    """Images of a pass that is timed, at most: as many as are evaluated at once."""
    most = components.recipe.data.eval_batch_size
    if not is_dense(components.task):
        return most
    if components.data.have_boxes:  # a detector may see larger images than there are: SSD stretches them
        most = min(most, components.recipe.data.batch_size)
    return min(most, max(1, MOST_PIXELS // math.prod(height_and_width(components.image_size))))


def _time_models(execution: Execution) -> None:
    """Measure inference speed of student and teacher into timing.jsonl."""
    components = execution.components
    models = [("student", components.student_network, components.image_size)]
    if components.teacher_network is not None:
        models.append(("teacher", components.teacher_network, components.teacher_size or components.image_size))
    batch_size = _timed_images(components)
    for _, network, size in models:  # all in batches of one size
        model = network.prepared.to(components.device)
        batch_size = images_within(model, image_size=size, most=batch_size, seconds=PASS_SECONDS)
    for role, network, size in models:
        model = network.prepared.to(components.device)
        rate = throughput(model, image_size=size, batch_size=batch_size)
        speed = {"kind": "speed", "role": role, "model": network.name, "batch": batch_size}
        range_of = {"lowest": rate.lowest, "highest": rate.highest}
        measured = {"images_per_second": rate.median, **range_of, "threads": torch.get_num_threads()}
        execution.run.append_timing({**speed, **measured, "device": str(components.device)})
    execution.run.append_timing({"kind": "memory", "peak_gib": peak_memory_gib(components.device)})
