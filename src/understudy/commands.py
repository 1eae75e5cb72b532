"""What the commands do, without the command line: settings in, text or a run folder out."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from understudy import runs
from understudy.banking import BankOptions, make_banks
from understudy.building import Parts, build_trainer, open_parts
from understudy.config import UserError
from understudy.environment import peak_memory_gib
from understudy.export import export_onnx
from understudy.logs import Display, duration
from understudy.memory_format import with_format_settled
from understudy.methods import METHODS
from understudy.recipe import Recipe, load_recipe
from understudy.reopened import image_sizes, recipe_of, refuse_what_python_made, results_of, student_of, teacher_of
from understudy.rows import row_named, rows_of, written_out
from understudy.runfolder import RunFolder
from understudy.step import Batch
from understudy.student import Student
from understudy.suiting import check_rows, size_notes
from understudy.teaching import check_teacher, evaluate_teacher
from understudy.untrusted import given_path, visible

__all__ = ["bank", "check", "compare", "demo", "evaluate", "export", "next_commands", "train"]

DEFAULT_ROWS = ("alone", "kd", "kd+dot", "dist")
MEASURED_STEPS = 5


def train(recipe: Recipe, *, out: Path | None, overwrite: bool, allow_code: bool, display: Display) -> RunFolder:
    """Run the recipe's own method and update."""
    recipe = recipe.model_copy(update={"rows": ()})
    name = f"{_data_name(recipe)}-{rows_of(recipe)[0].name.replace('+', '-')}"
    return runs.execute(recipe, name=name, out=out, overwrite=overwrite, allow_code=allow_code, display=display)


def compare(recipe: Recipe, *, out: Path | None, overwrite: bool, allow_code: bool, display: Display) -> RunFolder:
    """Run several rows, by default the student alone and the most used ways to distil."""
    recipe = written_out(recipe if recipe.rows else _with_usual_rows(recipe, display))
    name = f"{_data_name(recipe)}-compare"
    return runs.execute(recipe, name=name, out=out, overwrite=overwrite, allow_code=allow_code, display=display)


def _with_usual_rows(recipe: Recipe, display: Display) -> Recipe:
    """The recipe for those of the usual rows that can be compared under it; nobody asked for the others."""
    fitting = []
    for row in DEFAULT_ROWS:
        try:
            row_named(recipe, row)
            fitting.append(row)
        except UserError as error:
            display.say(f"left out  {error}")
    return recipe.with_rows(fitting)


def bank(recipe: Recipe, *, out: Path | None, options: BankOptions, allow_code: bool, display: Display) -> list[Path]:
    """Store what the recipe's teacher says about every view of the training set; the folders, one for each seed."""
    if out is None and recipe.bank is None:
        raise UserError("where to? Give --out FOLDER, or bank.path in the recipe")
    out = out or given_path(recipe.bank.path if recipe.bank else "", what="bank.path")
    return [
        folder.path for folder in make_banks(recipe, out=out, options=options, allow_code=allow_code, display=display)
    ]


def demo(out: Path, *, display: Display) -> RunFolder:
    """Run the shipped demo recipe; it replaces its own finished run."""
    recipe = load_recipe("digits/demo")
    display.say(
        f"understudy demo · real handwritten digits (UCI, 1,797 images of 8x8 pixels) · {recipe.threads} CPU thread"
    )
    run = RunFolder(out)
    is_own = run.recipe_file.is_file()
    if is_own and not run.is_finished and run.recipe() != recipe.as_dict():
        raise UserError(f"{out} holds an unfinished run of another recipe; take another --out")
    return runs.execute(recipe, name="demo", out=out, overwrite=is_own and run.is_finished, display=display)


def check(recipe: Recipe, *, allow_code: bool, display: Display) -> None:
    """Build everything, score the teacher, take a few steps that are thrown away, and say what a run would cost."""
    rows = rows_of(recipe)
    parts = open_parts(recipe, allow_code=allow_code, say=display.say)
    check_rows(parts, rows)
    for note in size_notes(parts):
        display.say(note)
    display.say(runs.describe_data(parts))
    with TemporaryDirectory() as folder:  # a run keeps what it measured, this does not
        parts = with_format_settled(parts, Path(folder) / "memory_format.json", say=display.say)
    trainer = build_trainer(parts, rows, recipe.seeds[0])
    if recipe.teacher is not None and recipe.teacher.train_epochs > 0:
        epochs = recipe.teacher.train_epochs
        display.say(
            f"teacher  {recipe.teacher.model}   is going to be trained here for {epochs} "
            f"epoch{'s' * (epochs > 1)}; not scored yet"
        )
    elif recipe.teacher is not None:
        check_teacher(parts, evaluate_teacher(parts).get("val"), say=display.say)
    display.say(runs.describe_rows(parts, rows))
    for student in trainer.students:
        display.say(_taps_in_words(student))
    display.say(_estimate(parts, len(recipe.seeds)))


def evaluate(run: RunFolder, *, split: str, data: str | None, allow_code: bool) -> str:
    """Scores of the run's student in words."""
    if split not in ("val", "test"):
        raise UserError(f"--split {split!r}: there are val and test")
    refuse_what_python_made(run)
    recipe, classes = recipe_of(run), results_of(run).data.classes
    # What it started from is not needed any more.
    bare: dict[str, object] = {
        "student": recipe.student.model_copy(update={"weights": "none"}),
        "teacher": None,
        "bank": None,
        "method": (),
        "rows": (),
    }
    data = None if data == recipe.data.root else data  # its own, and so its own split
    if data is not None:
        of_the_run = dict.fromkeys(("train_rows", "val_rows", "per_class", "fraction", "unlabelled"))
        bare["data"] = recipe.data.model_copy(update={**of_the_run, "streaming": False, "root": data})
    recipe = recipe.model_copy(update=bare)
    parts = open_parts(recipe, allow_code=allow_code, say=lambda _: None)
    if tuple(map(visible, parts.data.classes)) != classes:
        raise UserError(
            f"{parts.data.name} has other classes than the student learnt: {_some(parts.data.classes)} here, "
            f"{_some(classes)} there"
        )
    student = student_of(run, allow_code=allow_code).to(parts.device)
    batches: Iterable[Batch] = parts.eval_loader(split)
    if data is not None and parts.data.val_origin.startswith("held out"):  # nothing is trained: all of it counts
        batches = chain(parts.eval_loader("train"), batches)
    found = parts.task.evaluate({"student": lambda batch: student(batch.images)}, batches, parts.device)
    scores = found["student"]
    top5 = "" if scores.top5 is None else f"   top-5 {scores.top5:.2f} %"
    counts = scores.labels.bincount()
    is_even = len(set(counts[counts > 0].tolist())) == 1
    balanced = "" if is_even else f"   balanced {scores.balanced_accuracy:.2f} %"
    what = split if data is None else f"{parts.data.name}, {_which_images(parts, split)}"
    images = f"{what} ({len(scores.labels):,} images)"
    return f"{run.student}   {images}   top-1 {scores.top1:.2f} %{top5}{balanced}   loss {scores.loss:.4f}"


def _which_images(parts: Parts, split: str) -> str:
    """What is evaluated of data that are not the run's."""
    is_undivided = parts.data.val_origin.startswith("held out")
    return "all of it" if is_undivided else parts.data.val_origin if split == "val" else "test split"


def export(run: RunFolder, file: Path, *, allow_code: bool) -> str:
    """Write the run's student as ONNX; sizes and latencies in words."""
    refuse_what_python_made(run)
    student = student_of(run, allow_code=allow_code)
    teacher = teacher_of(run, allow_code=allow_code)
    size, teacher_size = image_sizes(run)
    return export_onnx(
        student,
        file,
        image_size=size,
        teacher=teacher,
        teacher_image_size=None if teacher is None else teacher_size,
    ).describe()


def next_commands() -> str:
    """Two commands to try after the demo, in a form that can be pasted."""
    program = Path(sys.argv[0])
    name = program if program.name == "understudy" and program.is_file() else Path("understudy")
    return (
        f"Next: {name} train --teacher timm:resnet34 --train-teacher 10 --student timm:mobilenetv3_small_050 "
        f"--method dist --update dot --data YOUR/IMAGES\n"
        f"      {name} methods            ({len(METHODS)} ways to distil, each with its paper)"
    )


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


def _estimate(parts: Parts, num_seeds: int) -> str:
    """Time and memory of the whole run, from a few steps of a trainer that is thrown away."""
    recipe = parts.recipe
    loader = parts.train_loader(recipe.seeds[0])
    trainer = build_trainer(parts, rows_of(recipe), recipe.seeds[0])
    trainer.epochs, trainer.steps_per_epoch = recipe.epochs, loader.steps_per_epoch
    seconds = []
    batches = loader.epoch(1)
    for _ in range(min(MEASURED_STEPS, loader.steps_per_epoch)):
        began = time.perf_counter()
        trainer.take_step(next(batches))
        if parts.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    epoch = sorted(seconds)[len(seconds) // 2] * loader.steps_per_epoch
    return (
        f"about {epoch:,.{1 if epoch < 10 else 0}f} s an epoch, {duration(epoch * recipe.epochs * num_seeds)} in all "
        "without evaluation, "
        f"{peak_memory_gib(parts.device):.1f} GiB"
    )


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")


def _data_name(recipe: Recipe) -> str:
    return given_path(recipe.data.root, what="data.root").resolve().name or "run"
