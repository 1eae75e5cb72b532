"""What a finished run leaves: predictions and results of all seeds, the student to deploy, the page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from understudy.data.sources.found import BadImages
from understudy.models.cost import images_per_second
from understudy.report import Results, headline
from understudy.results.schema import Row as ResultsRow
from understudy.runs.collect import assemble
from understudy.runs.context import Execution
from understudy.runs.folder import RunFolder
from understudy.runs.seeds import _contiguous
from understudy.utils.machine import peak_memory_gib

__all__ = ["finish"]


def finish(execution: Execution) -> None:
    """Put the seeds together: predictions, results, the student to deploy, speeds, the page."""
    recipe, parts, run = execution.recipe, execution.parts, execution.run
    records: dict[str, list[Any]] = {row.name: [] for row in execution.rows}
    students: dict[str, Any] = {}
    predictions: dict[str, Tensor] = {}
    skipped: set[str] = set()
    lengths: set[int] = set()  # epochs that the run was to have, one after the other
    for seed in recipe.seeds:
        kept = json.loads(run.seed_file(seed).read_text(encoding="utf-8"))
        skipped |= set(kept["skipped"])
        lengths |= set(kept["lengths"])
        for name, found in kept["rows"].items():
            records[name].append(found["record"])
            students[name] = found["student"]
        predictions |= load_file(run.seed_file(seed).with_suffix(".safetensors"))
    for split, evaluation in execution.teacher.items():
        predictions = evaluation.kept_as(split, "teacher") | predictions
    save_file(_contiguous(predictions), run.predictions_file)
    results = assemble(
        parts,
        execution.rows,
        name=run.path.name,
        seed_records=records,
        students=students,
        teacher=execution.teacher,
        predictions=predictions,
    )
    if skipped:
        note = BadImages(sorted(skipped), ("image cannot be read", "images cannot be read")).note()
        execution.display.say(note)
        results["data"]["notes"].append(note)
    if len(lengths) > 1:
        results["data"]["notes"].append(_length_note(sorted(lengths)))
    found = Results.read(results, what="results of this run")
    best = found.best_row or found.rows[0]
    results["headline"] = {"row": best.name, "sentence": headline(found)}
    results["deployed"] = _deploy(run, best)
    _time_models(execution)
    run.write_json(run.results_file, results)


def _length_note(lengths: Sequence[int]) -> str:
    """What became of a run that went on beyond its end."""
    parts = [f"from epoch {begun + 1} on as a run of {length}" for begun, length in pairwise(lengths)]
    return f"learning rates: first as a run of {lengths[0]} epoch{'s' * (lengths[0] > 1)}, then {', then '.join(parts)}"


def _deploy(run: RunFolder, row: ResultsRow) -> dict[str, Any]:
    """Copy the row's best seed, on the validation images, to where it is deployed from."""
    best = max(row.seeds, key=lambda seed: seed.selected.top1)
    partial = run.path / ".student.partial"
    for leftover in (partial, run.student):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(run.students / row.name / f"seed{best.seed}", partial)
    partial.rename(run.student)
    return {"row": row.name, "seed": best.seed, "folder": run.student.name}


def _time_models(execution: Execution) -> None:
    """Measure inference speed of student and teacher into timing.jsonl."""
    parts, batch_size = execution.parts, execution.recipe.data.eval_batch_size
    models = [("student", parts.student_network, parts.image_size)]
    if parts.teacher_network is not None:
        models.append(("teacher", parts.teacher_network, parts.teacher_size or parts.image_size))
    for role, network, size in models:
        model = network.prepared.to(parts.device)
        rate = images_per_second(model, image_size=size, batch_size=batch_size)
        speed = {"kind": "speed", "role": role, "model": network.name, "batch": batch_size}
        measured = {"images_per_second": rate, "threads": torch.get_num_threads()}
        execution.run.append_timing({**speed, **measured, "device": str(parts.device)})
    execution.run.append_timing({"kind": "memory", "peak_gib": peak_memory_gib(parts.device)})
