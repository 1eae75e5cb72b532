"""A recipe becomes a run folder, in four steps: opened, its folder chosen, its bank's views settled, carried out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from understudy.core.batch import Batch
from understudy.data import EvalLoader
from understudy.distributed.launch import current, joined
from understudy.distributed.world import World
from understudy.recipes.comparison import rows_of
from understudy.recipes.schema import Recipe, lr_note
from understudy.report import write_report
from understudy.runs import checkpoint
from understudy.runs.bank.views import limit_views, num_passes
from understudy.runs.build import build_trainer
from understudy.runs.checks import check_rows, compile_notes, length_notes, size_notes
from understudy.runs.component_changes import in_world, with_recipe, with_views
from understudy.runs.components import Components, open_components
from understudy.runs.console import Display
from understudy.runs.context import Execution
from understudy.runs.decoding import check_decoder, choose_decoder
from understudy.runs.describe import describe_data, describe_rows, describe_starts
from understudy.runs.failures import readable_errors
from understudy.runs.finish import finish
from understudy.runs.folder import RunFolder
from understudy.runs.folder_choice import choose_run_folder, goes_on_unturned
from understudy.runs.further_teachers import check_further_teachers, evaluate_further_teachers
from understudy.runs.memory_format import choose_memory_format
from understudy.runs.per_image import per_image_tensors
from understudy.runs.seeds import is_kept, keep_seed
from understudy.runs.stop import StopRequest
from understudy.runs.teacher import check_teacher, evaluate_teacher, teacher_ready
from understudy.runs.threads import choose_threads, usable_threads
from understudy.runs.watcher import RunWatcher
from understudy.tasks import Evaluation
from understudy.trackers.base import Trackers, refuse_absent_packages
from understudy.training.trainer import Trainer
from understudy.utils.errors import UserError
from understudy.utils.lock import held
from understudy.utils.machine import cpu_threads, denormals_flushed, describe_environment, tf32
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
    components: Components | None = None,
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
        components: opened data and models, where they do not come from the recipe but from Python.
        handed_over: what tells these from others (`understudy.runs.identity`).

    Raises:
        UserError: anything a person can mend.
        Interrupted: stopped by a signal; the same call goes on from there.
    """
    refuse_absent_packages(recipe.trackers)
    threads = recipe.threads or usable_threads()
    with joined() as world, cpu_threads(threads), tf32(recipe.tf32), denormals_flushed():
        if not world.is_first:
            display = Display(quiet=True)
        begun = partial(goes_on_unturned, recipe, out=out, name=name, overwrite=overwrite, handed_over=handed_over)
        if world.from_first(begun):
            recipe = recipe.with_data(exif_rotation=False)
        opened = _opened(recipe, components, world, allow_code=allow_code, display=display)
        if world.from_first(lambda: _lacks_only_its_page(opened.recipe, out, overwrite, handed_over or {})):
            return _with_its_page(RunFolder(cast(Path, out)), world)
        choose = partial(choose_run_folder, opened.recipe.as_dict(), out=out, name=name, overwrite=overwrite)
        run = _chosen(partial(choose, handed_over=handed_over, say=display.say), world)
        _carry_out(run, _with_its_views(opened, run), display)
        return run


def _opened(
    recipe: Recipe, components: Components | None, world: World, *, allow_code: bool, display: Display
) -> Components:
    """First step: everything that the recipe names, opened and checked against each other."""
    rows = rows_of(recipe)
    if components is None:
        components = open_components(recipe, allow_code=allow_code, say=display.say, world=world)
    else:
        components = _from_python(components, recipe, world)
        for note in components.data.notes:
            display.say(note)
    check_rows(components, rows)
    check_decoder(components)
    for note in [*size_notes(components), *length_notes(components, rows), *compile_notes(components)]:
        display.say(note)
    return components


def _with_its_page(run: RunFolder, world: World) -> RunFolder:
    """Instead of all others, where nothing else is missing: write the page."""
    if world.is_first:
        with held(run.path, what="run folder"):
            write_report(run.path)
    return run


def _chosen(choose: Callable[..., RunFolder], world: World) -> RunFolder:
    """Second step: the folder, on which all processes agree."""
    return RunFolder(world.from_first(lambda: choose(environment=describe_environment()).path))


def _from_python(components: Components, recipe: Recipe, world: World) -> Components:
    if recipe.bank is not None:
        raise UserError("bank: networks that are handed over in Python are looked at live; leave it out")
    components = with_recipe(components, recipe)
    return in_world(components, world) if world.size > 1 else components


def _with_its_views(components: Components, run: RunFolder) -> Components:
    """Third step: the bank, which may have grown since, is kept to the views that the run began with."""
    bank, teacher = components.recipe.bank, components.teacher
    if bank is None or teacher is None:
        return components
    num_views = components.world.from_first(lambda: run.recipe()["bank"]["num_views"])
    if num_views == bank.num_views:
        return components
    recipe, world_size = components.recipe, components.world.size
    passes = num_passes(recipe, len(components.data.train), world_size=world_size)
    limit_views(teacher, num_views, recipe, passes=passes)
    return with_views(components, num_views)


def _lacks_only_its_page(recipe: Recipe, out: Path | None, overwrite: bool, handed_over: Mapping[str, Any]) -> bool:
    """Whether `out` holds this very run with its results, and was cut off before its page."""
    if out is None or overwrite:
        return False
    run = RunFolder(given_path(out, what="run folder"))
    if not run.is_finished or run.report_file.exists():
        return False
    return run.recipe() == recipe.as_dict() and not run.differences(recipe.as_dict(), handed_over)


def _carry_out(run: RunFolder, components: Components, display: Display) -> None:
    """Fourth step: train and write, alone in the folder, with what goes wrong there put into words."""
    recipe, world = components.recipe, components.world
    with readable_errors(run.path), current(components.device), ExitStack() as until_done:
        world.from_first(lambda: until_done.enter_context(held(run.path, what="run folder")))
        _train_and_write(Execution(recipe, rows_of(recipe), components, run, display, StopRequest()))


def _train_and_write(execution: Execution) -> None:
    """Teacher, seeds, results and page, each unless an earlier call has done it."""
    components, run, display = execution.components, execution.run, execution.display
    with execution.stop.listening():
        began = time.monotonic()
        results: dict[str, Any] | None = None
        try:
            if components.world.is_first:
                execution.trackers = Trackers(
                    execution.recipe.trackers, run.path, execution.recipe.as_dict(), say=display.say
                )
            display.say(describe_data(components))
            for line, style in describe_starts(components):
                display.say(line, style=style)
            _settle_threads(execution)
            settled = choose_decoder(components, run.decoder_file, say=display.say)
            execution.components = choose_memory_format(settled, run.memory_format_file, say=display.say)
            if note := lr_note(execution.recipe):
                display.say(f"warning  {note}")
            _prepare_teacher(execution)
            display.say(describe_rows(execution.components, execution.rows))
            for seed in execution.recipe.seeds:
                _run_seed(execution, seed)
            if components.world.is_first:  # a signal from here on finds the run at its end, and is not heeded
                run.report_file.unlink(
                    missing_ok=True
                )  # of the unfinished run; the page of the finished one comes last
                finish(execution)
                results = run.results()
        finally:
            if execution.trackers is not None:
                execution.trackers.finish(results)
            if components.world.is_first:
                with suppress(OSError):  # a full disk has been said by then
                    seconds = time.monotonic() - began
                    run.append_timing({"kind": "run", "seconds": seconds, "processes": components.world.size})
        if components.world.is_first:
            write_report(run.path)
    components.world.exchange(0)  # nobody leaves while the others still need it


def _settle_threads(execution: Execution) -> None:
    """Take as many CPU threads as this run began with, or as are set or measured, and write that down."""
    components, run = execution.components, execution.run
    threads = choose_threads(components, run.threads_file, say=execution.display.say)
    if components.world.is_first:
        run.note_threads(threads)


def _prepare_teacher(execution: Execution) -> None:
    """Train the teacher where that is asked for, score it, and stop where it knows nothing."""
    if execution.recipe.teacher is None:
        return
    # Taps, sizes and class counts are settled before the teacher takes its hours.
    build_trainer(execution.components, execution.rows, execution.recipe.seeds[0])
    execution.components = teacher_ready(
        execution.components, execution.run, execution.display, execution.stop, execution.trackers
    )
    execution.teacher = evaluate_teacher(execution.components, stop=execution.stop)
    check_teacher(execution.components, execution.teacher.get("val"), say=execution.display.say)
    execution.further_teachers = evaluate_further_teachers(execution.components, stop=execution.stop)
    check_further_teachers(execution.components, execution.further_teachers, say=execution.display.say)


def _run_seed(execution: Execution, seed: int) -> None:
    """Train all rows of one seed, unless an earlier call has."""
    recipe, components, display = execution.recipe, execution.components, execution.display
    if components.world.from_first(lambda: is_kept(execution.run, seed, epochs=recipe.epochs)):
        if components.world.is_first:  # the call that kept it may have died before it cleared up
            checkpoint.keep_end(execution.run.checkpoints, f"seed{seed}")
        return
    trainer = build_trainer(components, execution.rows, seed, say=display.say)
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
        world=components.world,
        trackers=execution.trackers,
    )
    loader, val_loader = components.train_loader(seed), components.eval_loader("val")
    with display.stretch(recipe.epochs * loader.steps_per_epoch, images_per_step=recipe.data.batch_size):
        watcher.fit(trainer, loader, epochs=recipe.epochs, val=val_loader)
    if trainer.teacher is not None:
        trainer.teacher.release()  # of a bank the last view, of up to 1 GiB on the device

    found, details, skipped = _evaluated(execution, trainer, seed, {"val": val_loader})
    skipped |= set(watcher.skipped)
    met = set().union(*components.world.gather_objects(skipped))
    if components.world.is_first:
        keep_seed(execution, trainer, seed, found, details, sorted(met))
        checkpoint.keep_end(execution.run.checkpoints, f"seed{seed}")
    components.world.exchange(0)  # nobody goes on before the seed is kept


def _evaluated(
    execution: Execution, trainer: Trainer, seed: int, loaders: dict[str, EvalLoader]
) -> tuple[dict[str, Mapping[str, Evaluation]], dict[str, Tensor], set[str]]:
    """What the students of a trained seed reach, by split and row, what is kept of each image, and unreadable images.

    `loaders` has that of the validation images, whose scores of the last epoch are at hand.
    """
    components, world = execution.components, execution.components.world

    def stoppable(batches: EvalLoader) -> Iterable[Batch]:
        return execution.stop.stoppable(batches, world, before=lambda: trainer.step)

    found: dict[str, Mapping[str, Evaluation]] = {"val": trainer.evaluations}
    if trainer.selects_best:
        for student in trainer.students:
            student.return_to_best()
        found["val"] = trainer.evaluate(stoppable(loaders["val"]))
    if components.data.test is not None:
        loaders["test"] = components.eval_loader("test")
        found["test"] = trainer.evaluate(stoppable(loaders["test"]))
    details: dict[str, Tensor] = {}
    asks_teacher = components.teacher_looks and components.teacher_shares_classes
    for split, loader in loaders.items():
        details |= per_image_tensors(
            trainer, stoppable(loader), found[split], split=split, seed=seed, asks_teacher=asks_teacher
        )
    return found, details, {image for loader in loaders.values() for image in loader.skipped}
