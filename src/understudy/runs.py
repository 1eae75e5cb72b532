"""Recipe -> parts -> run folder: the only place that wires."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from understudy import checkpoint
from understudy.building import Parts, build_trainer, deployed_network, in_world, open_parts
from understudy.config import UserError
from understudy.connections import save_connectors
from understudy.data import EvalLoader
from understudy.data.found import BadImages
from understudy.denormals import denormals_flushed
from understudy.distributed import joined
from understudy.environment import describe_environment, peak_memory_gib
from understudy.faults import faults_in_words
from understudy.logs import Display
from understudy.models import save_student
from understudy.models.cost import count_parameters, cpu_threads, images_per_second
from understudy.recipe import Recipe, lr_note
from understudy.report import Results, compact, headline, write_report
from understudy.report.results import Row as ResultsRow
from understudy.results import assemble, model_facts, seed_record
from understudy.rows import Row, rows_of
from understudy.runfolder import RunFolder, choose_run_folder
from understudy.spec import weighted
from understudy.step import Batch
from understudy.suiting import check_rows
from understudy.tasks import Evaluation
from understudy.teaching import banked_teacher, check_teacher, evaluate_teacher, teacher_ready
from understudy.training import Trainer
from understudy.untrusted import given_path
from understudy.updates import DOT, UpdateConfig
from understudy.watching import RunWatcher, StopRequest

__all__ = ["Execution", "execute"]


@dataclass
class Execution:
    """One run on its way."""

    recipe: Recipe
    rows: Sequence[Row]
    parts: Parts
    run: RunFolder
    display: Display
    stop: StopRequest
    teacher: dict[str, Evaluation] = field(default_factory=dict)  # by split


def execute(
    recipe: Recipe,
    *,
    name: str,
    out: Path | None = None,
    overwrite: bool = False,
    allow_code: bool = False,
    display: Display,
    parts: Parts | None = None,
) -> RunFolder:
    """Run a recipe from wherever its folder stands, and write everything that `results.json` and the page need.

    Args:
        recipe: everything about the run.
        name: of a numbered folder under runs/, where `out` is None.
        out: the run folder.
        overwrite: replace what a run has left there.
        allow_code: models may be named as module.path:factory.
        display: tells people how far it is.
        parts: opened data and models, where they do not come from the recipe but from Python.

    Raises:
        UserError: anything a person can mend.
        Interrupted: stopped by a signal; the same call goes on from there.
    """
    with joined() as world, cpu_threads(recipe.threads), denormals_flushed():
        if not world.is_first:
            display = Display(quiet=True)
        rows = rows_of(recipe)
        if parts is None:
            parts = open_parts(recipe, allow_code=allow_code, say=display.say, world=world)
            recipe = parts.recipe  # with the key of its bank
        elif recipe.bank is not None:
            raise UserError("bank: networks that are handed over in Python are looked at live; leave it out")
        elif world.size > 1:
            parts = in_world(parts, world)
        check_rows(parts, rows)

        if world.from_first(lambda: _lacks_only_its_page(recipe, out, overwrite)):
            run = RunFolder(cast(Path, out))
            if world.is_first:
                write_report(run.path)
            return run

        def chosen() -> Path:
            environment = describe_environment()
            return choose_run_folder(
                recipe.as_dict(), out=out, name=name, overwrite=overwrite, environment=environment
            ).path

        run = RunFolder(world.from_first(chosen))
        with faults_in_words(run.path):
            _carry_out(Execution(recipe, rows, parts, run, display, StopRequest()))
        return run


def _lacks_only_its_page(recipe: Recipe, out: Path | None, overwrite: bool) -> bool:
    """Whether `out` holds this very run with its results, and was cut off before its page."""
    if out is None or overwrite:
        return False
    run = RunFolder(given_path(out, what="run folder"))
    return run.is_finished and not run.report_file.exists() and run.recipe() == recipe.as_dict()


def _carry_out(execution: Execution) -> None:
    """Teacher, seeds, results and page, each unless an earlier call has done it."""
    parts, run, display = execution.parts, execution.run, execution.display
    with execution.stop.listening():
        began = time.monotonic()
        try:
            display.say(describe_data(parts))
            if note := lr_note(execution.recipe):
                display.say(f"warning  {note}")
            _prepare_teacher(execution)
            display.say(describe_rows(execution.parts, execution.rows))
            for seed in execution.recipe.seeds:
                _run_seed(execution, seed)
            if parts.world.is_first:  # a signal from here on finds the run at its end, and is not heeded
                _finish(execution)
        finally:
            if parts.world.is_first:
                run.append_timing({"kind": "run", "seconds": time.monotonic() - began, "processes": parts.world.size})
        if parts.world.is_first:
            write_report(run.path)
    parts.world.exchange(0)  # nobody leaves while the others still need it


def describe_data(parts: Parts) -> str:
    """What was found, for people."""
    data = parts.data
    test = "" if data.test is None else f", test {len(data.test):,}"
    unlabelled = f" ({data.num_unlabelled:,} without labels)" if data.num_unlabelled else ""
    return (
        f"data     {data.name}: {len(data.classes)} classes, train {len(data.train):,}{unlabelled}, "
        f"val {len(data.val):,} ({data.val_origin}){test}, {parts.image_size} px"
    )


def describe_rows(parts: Parts, rows: Sequence[Row]) -> str:
    """What is going to be trained, for people."""
    seeds = parts.recipe.seeds
    count = f"{len(rows)} row{'s' * (len(rows) > 1)} x {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    network, size = parts.student_network, compact(count_parameters(parts.student_network.module))
    lines = [
        f"student  {parts.recipe.student.model}   {size} parameters   {network.starts_from}   "
        f"{count}, {parts.recipe.epochs} epoch{'s' * (parts.recipe.epochs > 1)}"
    ]
    for row in rows:
        methods = ", ".join(_with_weight(config) for config in row.method) or "nothing distilled"
        lines.append(f"  {row.name:<14} {methods}; task {row.task_weight:g}; {_moved_by(row.update)}")
    return "\n".join(lines)


def _with_weight(config: Any) -> str:
    weight, _ = weighted(config)
    paper = config.method.paper
    source = f" ({paper.authors.split(',')[0]} {paper.year})" if paper else ""
    return f"{config.method.name}{source}, weight {weight:g}"


def _moved_by(update: UpdateConfig) -> str:
    delta = f" -/+ {update.delta:g}" if isinstance(update, DOT.Config) else ""
    return f"{update.name} ({update.optimizer}, lr {update.lr:g}, momentum {update.momentum:g}{delta})"


def _prepare_teacher(execution: Execution) -> None:
    """Train the teacher where that is asked for, score it, and stop where it knows nothing."""
    if execution.recipe.teacher is None:
        return
    # Taps, sizes and class counts are settled before the teacher takes its hours.
    build_trainer(execution.parts, execution.rows, execution.recipe.seeds[0])
    execution.parts = teacher_ready(execution.parts, execution.run, execution.display, execution.stop)
    execution.teacher = evaluate_teacher(execution.parts, stop=execution.stop)
    check_teacher(execution.parts, execution.teacher.get("val"), say=execution.display.say)


def _run_seed(execution: Execution, seed: int) -> None:
    """Train all rows of one seed, unless an earlier call has."""
    recipe, parts, display = execution.recipe, execution.parts, execution.display
    if parts.world.from_first(_seed_file(execution.run, seed).is_file):
        if parts.world.is_first:  # the call that kept it may have died before it cleared up
            checkpoint.remove(execution.run.checkpoints, f"seed{seed}")
        return
    trainer = build_trainer(parts, execution.rows, seed)
    label = f"seed {recipe.seeds.index(seed) + 1}/{len(recipe.seeds)}" if len(recipe.seeds) > 1 else "training"
    watcher = RunWatcher(
        execution.run,
        recipe,
        tag=f"seed{seed}",
        seed=seed,
        label=label,
        display=display,
        stop=execution.stop,
        teacher=execution.teacher.get("val"),
        world=parts.world,
    )
    loader, val_loader = parts.train_loader(seed), parts.eval_loader("val")
    with display.stretch(recipe.epochs * loader.steps_per_epoch, images_per_step=recipe.data.batch_size):
        watcher.fit(trainer, loader, epochs=recipe.epochs, val=val_loader)

    def heeded(batches: EvalLoader) -> Iterable[Batch]:
        return execution.stop.heeded(batches, parts.world, before=lambda: trainer.step)

    if trainer.selects_best:
        for student in trainer.students:
            student.return_to_best()
        trainer.evaluate(heeded(val_loader))
    val, test, skipped = trainer.evaluations, {}, {*watcher.skipped, *val_loader.skipped}
    if parts.data.test is not None:
        test_loader = parts.eval_loader("test")
        test = trainer.evaluate(heeded(test_loader))
        trainer.evaluations = val
        skipped |= set(test_loader.skipped)
    met = set().union(*parts.world.gather_objects(skipped))
    if parts.world.is_first:
        _keep_seed(execution, trainer, seed, test, sorted(met))
        checkpoint.remove(execution.run.checkpoints, f"seed{seed}")
    parts.world.exchange(0)  # nobody goes on before the seed is kept


def _keep_seed(
    execution: Execution, trainer: Trainer, seed: int, test: Mapping[str, Evaluation], skipped: Sequence[str]
) -> None:
    """Write what a finished seed leaves: students, predictions, and last the record that marks it as done."""
    parts, run = execution.parts, execution.run
    predictions: dict[str, Tensor] = {}
    records: dict[str, Any] = {}
    for student in trainer.students:
        network = deployed_network(parts, student)
        folder = run.students / student.name / f"seed{seed}"
        shutil.rmtree(folder, ignore_errors=True)  # what a call that died in here left half-way
        save_student(
            folder,
            network,
            label_names=parts.data.classes,
            image_size=parts.image_size,
            crop_share=parts.crop_share,
        )
        save_connectors(folder, [weighted.method for weighted in student.methods])
        predictions[f"val/{student.name}/{seed}"] = trainer.evaluations[student.name].predictions
        if student.name in test:
            predictions[f"test/{student.name}/{seed}"] = test[student.name].predictions
        record = seed_record(trainer, student.name, seed=seed, teacher=execution.teacher, test=test)
        records[student.name] = {"record": record, "student": model_facts(network, parts.image_size)}
    for split, evaluations in (("val", trainer.evaluations), ("test", test)):
        if evaluations:
            predictions[f"{split}/labels"] = next(iter(evaluations.values())).labels
    predictions_file = _seed_file(run, seed).with_suffix(".safetensors")
    save_file(_contiguous(predictions), predictions_file)
    for file in (predictions_file, *run.students.glob(f"*/seed{seed}/*")):
        checkpoint.to_disk(file)  # before the record that counts on them
    run.write_json(_seed_file(run, seed), {"rows": records, "skipped": list(skipped)})


def _finish(execution: Execution) -> None:
    """Put the seeds together: predictions, results, the student to deploy, speeds, the page."""
    recipe, parts, run = execution.recipe, execution.parts, execution.run
    records: dict[str, list[Any]] = {row.name: [] for row in execution.rows}
    students: dict[str, Any] = {}
    predictions: dict[str, Tensor] = {}
    skipped: set[str] = set()
    for seed in recipe.seeds:
        kept = json.loads(_seed_file(run, seed).read_text(encoding="utf-8"))
        skipped |= set(kept["skipped"])
        for name, found in kept["rows"].items():
            records[name].append(found["record"])
            students[name] = found["student"]
        predictions |= load_file(_seed_file(run, seed).with_suffix(".safetensors"))
    for split, evaluation in execution.teacher.items():
        predictions[f"{split}/teacher"] = evaluation.predictions
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
    if parts.banks:
        results["teacher"] = banked_teacher(parts, execution.teacher)
    if skipped:
        note = BadImages(sorted(skipped), ("image cannot be read", "images cannot be read")).note()
        execution.display.say(note)
        results["data"]["notes"].append(note)
    found = Results.read(results, what="results of this run")
    best = found.best_row or found.rows[0]
    results["headline"] = {"row": best.name, "sentence": headline(found)}
    results["deployed"] = _deploy(run, best)
    _time_models(execution)
    run.write_json(run.results_file, results)


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


def _seed_file(run: RunFolder, seed: int) -> Path:
    return run.checkpoints / f"seed{seed}.json"


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
