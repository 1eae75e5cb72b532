"""Recipe -> run folder: opened, seeds trained one after the other, finished."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from understudy.core.batch import Batch
from understudy.data import EvalLoader
from understudy.distributed.launch import joined
from understudy.distributed.world import World
from understudy.recipes.comparison import rows_of
from understudy.recipes.schema import Recipe, lr_note
from understudy.report import write_report
from understudy.runs import checkpoint
from understudy.runs.bank.open import limit_views
from understudy.runs.build import build_trainer
from understudy.runs.checks import check_rows, size_notes
from understudy.runs.components import Parts, in_world, open_parts
from understudy.runs.console import Display
from understudy.runs.context import Execution
from understudy.runs.describe import describe_data, describe_rows
from understudy.runs.failures import faults_in_words
from understudy.runs.finish import finish
from understudy.runs.folder import RunFolder
from understudy.runs.folder_choice import choose_run_folder
from understudy.runs.memory_format import with_format_settled
from understudy.runs.seeds import is_kept, keep_seed
from understudy.runs.stop import StopRequest
from understudy.runs.teacher import check_teacher, evaluate_teacher, teacher_ready
from understudy.runs.watcher import RunWatcher
from understudy.trackers.base import Trackers
from understudy.utils.errors import UserError
from understudy.utils.lock import held
from understudy.utils.machine import cpu_threads, denormals_flushed, describe_environment
from understudy.utils.untrusted import given_path

__all__ = ["execute"]


def execute(
    recipe: Recipe,
    *,
    name: str,
    out: Path | None = None,
    overwrite: bool = False,
    allow_code: bool = False,
    display: Display,
    parts: Parts | None = None,
    handed_over: Mapping[str, Any] | None = None,
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
        handed_over: what tells these from others (`understudy.runs.identity`).

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
        else:
            parts = _from_python(parts, recipe, world)
            for note in parts.data.notes:
                display.say(note)
        check_rows(parts, rows)
        for note in size_notes(parts):
            display.say(note)

        if world.from_first(lambda: _lacks_only_its_page(recipe, out, overwrite, handed_over or {})):
            run = RunFolder(cast(Path, out))
            if world.is_first:
                with held(run.path, what="run folder"):
                    write_report(run.path)
            return run

        def chosen() -> Path:
            environment = describe_environment()
            return choose_run_folder(
                recipe.as_dict(),
                out=out,
                name=name,
                overwrite=overwrite,
                environment=environment,
                handed_over=handed_over,
                say=display.say,
            ).path

        run = RunFolder(world.from_first(chosen))
        if recipe.bank is not None:  # which may have grown since this run began
            parts = _with_views(parts, world.from_first(lambda: run.recipe()["bank"]["num_views"]))
            recipe = parts.recipe
        with faults_in_words(run.path), ExitStack() as until_done:
            world.from_first(lambda: until_done.enter_context(held(run.path, what="run folder")))
            _carry_out(Execution(recipe, rows, parts, run, display, StopRequest()))
        return run


def _from_python(parts: Parts, recipe: Recipe, world: World) -> Parts:
    if recipe.bank is not None:
        raise UserError("bank: networks that are handed over in Python are looked at live; leave it out")
    return in_world(parts, world) if world.size > 1 else parts


def _with_views(parts: Parts, num_views: int) -> Parts:
    """The same parts, their banks kept to the views that the run began with."""
    bank = parts.recipe.bank
    if bank is None or parts.teacher is None or num_views == bank.num_views:
        return parts
    limit_views(parts.teacher, num_views, parts.recipe)
    kept = bank.model_copy(update={"num_views": num_views})
    return replace(parts, recipe=parts.recipe.model_copy(update={"bank": kept}))


def _lacks_only_its_page(recipe: Recipe, out: Path | None, overwrite: bool, handed_over: Mapping[str, Any]) -> bool:
    """Whether `out` holds this very run with its results, and was cut off before its page."""
    if out is None or overwrite:
        return False
    run = RunFolder(given_path(out, what="run folder"))
    if not run.is_finished or run.report_file.exists():
        return False
    return run.recipe() == recipe.as_dict() and not run.differences(recipe.as_dict(), handed_over)


def _carry_out(execution: Execution) -> None:
    """Teacher, seeds, results and page, each unless an earlier call has done it."""
    parts, run, display = execution.parts, execution.run, execution.display
    with execution.stop.listening():
        began = time.monotonic()
        results: dict[str, Any] | None = None
        try:
            if parts.world.is_first:
                execution.trackers = Trackers(execution.recipe.trackers, run.path, execution.recipe.as_dict())
            display.say(describe_data(parts))
            execution.parts = with_format_settled(parts, run.memory_format_file, say=display.say)
            if note := lr_note(execution.recipe):
                display.say(f"warning  {note}")
            _prepare_teacher(execution)
            display.say(describe_rows(execution.parts, execution.rows))
            for seed in execution.recipe.seeds:
                _run_seed(execution, seed)
            if parts.world.is_first:  # a signal from here on finds the run at its end, and is not heeded
                finish(execution)
                results = run.results()
        finally:
            if execution.trackers is not None:
                execution.trackers.finish(results)
            if parts.world.is_first:
                with suppress(OSError):  # a full disk has been said by then
                    seconds = time.monotonic() - began
                    run.append_timing({"kind": "run", "seconds": seconds, "processes": parts.world.size})
        if parts.world.is_first:
            write_report(run.path)
    parts.world.exchange(0)  # nobody leaves while the others still need it


def _prepare_teacher(execution: Execution) -> None:
    """Train the teacher where that is asked for, score it, and stop where it knows nothing."""
    if execution.recipe.teacher is None:
        return
    # Taps, sizes and class counts are settled before the teacher takes its hours.
    build_trainer(execution.parts, execution.rows, execution.recipe.seeds[0])
    execution.parts = teacher_ready(
        execution.parts, execution.run, execution.display, execution.stop, execution.trackers
    )
    execution.teacher = evaluate_teacher(execution.parts, stop=execution.stop)
    check_teacher(execution.parts, execution.teacher.get("val"), say=execution.display.say)


def _run_seed(execution: Execution, seed: int) -> None:
    """Train all rows of one seed, unless an earlier call has."""
    recipe, parts, display = execution.recipe, execution.parts, execution.display
    if parts.world.from_first(lambda: is_kept(execution.run, seed, epochs=recipe.epochs)):
        if parts.world.is_first:  # the call that kept it may have died before it cleared up
            checkpoint.keep_end(execution.run.checkpoints, f"seed{seed}")
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
        trackers=execution.trackers,
    )
    loader, val_loader = parts.train_loader(seed), parts.eval_loader("val")
    with display.stretch(recipe.epochs * loader.steps_per_epoch, images_per_step=recipe.data.batch_size):
        watcher.fit(trainer, loader, epochs=recipe.epochs, val=val_loader)
    if trainer.teacher is not None:
        trainer.teacher.release()  # of a bank the last view, of up to 1 GiB on the device

    def heeded(batches: EvalLoader) -> Iterable[Batch]:
        return execution.stop.heeded(batches, parts.world, before=lambda: trainer.step)

    found = {"val": trainer.evaluations}
    if trainer.selects_best:
        for student in trainer.students:
            student.return_to_best()
        found["val"] = trainer.evaluate(heeded(val_loader))
    skipped = {*watcher.skipped, *val_loader.skipped}
    if parts.data.test is not None:
        test_loader = parts.eval_loader("test")
        found["test"] = trainer.evaluate(heeded(test_loader))
        skipped |= set(test_loader.skipped)
    met = set().union(*parts.world.gather_objects(skipped))
    if parts.world.is_first:
        keep_seed(execution, trainer, seed, found, sorted(met))
        checkpoint.keep_end(execution.run.checkpoints, f"seed{seed}")
    parts.world.exchange(0)  # nobody goes on before the seed is kept
