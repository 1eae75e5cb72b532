"""`understudy check`: everything built, a few steps taken and thrown away, what a run would cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from understudy.distributed.launch import current, device_named
from understudy.recipes.comparison import rows_of
from understudy.recipes.schema import Recipe
from understudy.runs import describe
from understudy.runs.build import build_trainer
from understudy.runs.checks import check_rows, compile_notes, length_notes, size_notes
from understudy.runs.components import Components, open_components
from understudy.runs.console import Display
from understudy.runs.decoding import check_decoder, choose_decoder
from understudy.runs.further_teachers import check_further_teachers, evaluate_further_teachers
from understudy.runs.memory_format import choose_memory_format
from understudy.runs.teacher import check_teacher, evaluate_teacher
from understudy.runs.threads import choose_threads, usable_threads
from understudy.trackers.base import refuse_absent_packages
from understudy.training.student import Student
from understudy.utils.machine import cpu_threads, peak_memory_gib, tf32
from understudy.utils.text import clock, plural

__all__ = ["check"]

MEASURED_STEPS = 5


def check(recipe: Recipe, *, allow_code: bool, display: Display) -> None:
    """Build everything, score the teacher, take a few steps that are thrown away, and say what a run would cost."""
    device = device_named(recipe.device)
    with cpu_threads(recipe.threads or usable_threads()), tf32(recipe.tf32), current(device):
        _check(recipe, allow_code=allow_code, display=display)


def _check(recipe: Recipe, *, allow_code: bool, display: Display) -> None:
    rows = rows_of(recipe)
    refuse_absent_packages(recipe.trackers)
    components = open_components(recipe, allow_code=allow_code, say=display.say)
    check_rows(components, rows)
    check_decoder(components)
    for note in [*size_notes(components), *length_notes(components, rows), *compile_notes(components)]:
        display.say(note)
    display.say(describe.describe_data(components))
    for line, style in describe.describe_starts(components):
        display.say(line, style=style)
    with TemporaryDirectory() as folder:  # a run keeps what it measured, this does not
        choose_threads(components, Path(folder) / "threads.json", say=display.say)
        components = choose_decoder(components, Path(folder) / "decoder.json", say=display.say)
        components = choose_memory_format(components, Path(folder) / "memory_format.json", say=display.say)
    trainer = build_trainer(components, rows, recipe.seeds[0])
    if recipe.teacher is not None and recipe.teacher.train_epochs > 0:
        epochs = recipe.teacher.train_epochs
        display.say(
            f"teacher  {recipe.teacher.model}   is going to be trained here for "
            f"{plural(epochs, 'epoch')}; not scored yet"
        )
    elif recipe.teacher is not None:
        check_teacher(components, evaluate_teacher(components).get("val"), say=display.say)
        check_further_teachers(components, evaluate_further_teachers(components), say=display.say)
    display.say(describe.describe_rows(components, rows))
    for student in trainer.students:
        display.say(_taps_in_words(student))
    display.say(_estimate(components, len(recipe.seeds)))


def _taps_in_words(student: Student) -> str:
    """'  projector      student embedding 64, teacher embedding 64'."""
    shapes = []
    for weighted in student.methods:
        taps, context = weighted.method.taps_for(weighted.method.config), weighted.method.context
        # The teacher's taps are those of all rows together; a method is shown its own.
        sides = {"student": (taps.student, context.student), "teacher": (taps.teacher, context.teacher)}
        for side, (wanted, found) in sides.items():
            shapes += [f"{side} {name} {shape}" for name, shape in found.items() if _is_one_of(name, wanted)]
    return f"  {student.name:<14} taps {', '.join(shapes) or 'logits only'}"


def _is_one_of(name: str, taps: Sequence[str]) -> bool:
    """Whether a tapped feature was asked for by its name or as one of a group, such as stages.1 by stages."""
    return any(name == tap or name.startswith(f"{tap}.") for tap in taps)


def _estimate(components: Components, num_seeds: int) -> str:
    """Time and memory of the whole run, from a few steps of a trainer that is thrown away."""
    recipe = components.recipe
    loader = components.train_loader(recipe.seeds[0])
    trainer = build_trainer(components, rows_of(recipe), recipe.seeds[0])
    trainer.begin(epochs=recipe.epochs, steps_per_epoch=loader.steps_per_epoch)
    seconds = []
    batches = loader.epoch(1)
    for _ in range(min(MEASURED_STEPS, loader.steps_per_epoch)):
        began = time.perf_counter()
        trainer.take_step(next(batches))
        if components.device.type != "cpu":
            torch.accelerator.synchronize(components.device)
        seconds.append(time.perf_counter() - began)
    epoch = sorted(seconds)[len(seconds) // 2] * loader.steps_per_epoch
    own = recipe.teacher.train_epochs if recipe.teacher is not None and recipe.bank is None else 0
    left_out = f" and the teacher's own {plural(own, 'epoch')}" if own else ""
    return (
        f"about {epoch:,.{1 if epoch < 10 else 0}f} s an epoch, {clock(epoch * recipe.epochs * num_seeds)} in all "
        f"without evaluation{left_out}, "
        f"{peak_memory_gib(components.device):.1f} GiB"
    )
