"""Typer commands: parse, call, print. A command is listed when it works.

A command imports what it does within its body, so that --help and --version need no torch.
"""

from __future__ import annotations

import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.options import (
    AllowCode,
    AllowWeak,
    Bank,
    Command,
    DataOption,
    Epochs,
    Format,
    MethodOption,
    Out,
    Overwrite,
    Rows,
    Seeds,
    StudentOption,
    StudentWeights,
    Sweep,
    TeacherOption,
    TeacherWeights,
    TrainTeacher,
    UpdateOption,
    Words,
    name_updates,
    resolve_recipe,
)
from understudy.cli.overrides import CliOverrides
from understudy.cli.recipes import recipes_app
from understudy.distributed.environment import said_once
from understudy.runs.console import Display
from understudy.utils.errors import UserError
from understudy.utils.interrupted import Interrupted
from understudy.utils.untrusted import visible

__all__ = ["app", "main"]

app = typer.Typer(
    name="understudy",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(recipes_app, name="recipes")


def _say_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"understudy {version('understudy')}")
        raise typer.Exit


@app.callback()
def _root(
    say_version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Knowledge distillation of vision models."""


@app.command(cls=Command)
def train(
    words: Words = None,
    teacher: TeacherOption = None,
    teacher_weights: TeacherWeights = None,
    train_teacher: TrainTeacher = None,
    student: StudentOption = None,
    student_weights: StudentWeights = None,
    data: DataOption = None,
    method: MethodOption = None,
    update: UpdateOption = None,
    epochs: Epochs = None,
    seeds: Seeds = None,
    bank: Bank = None,
    out: Out = None,
    overwrite: Overwrite = False,
    allow_code: AllowCode = False,
    allow_weak_teacher: AllowWeak = False,
) -> None:
    """Distil a student by a recipe, by options, or by both."""
    from understudy.cli import commands
    from understudy.cli.output import print_outcome

    typed = CliOverrides(
        teacher=teacher, teacher_weights=teacher_weights, train_teacher=train_teacher, student=student,
        student_weights=student_weights, data=data, method=method, update=update, epochs=epochs, seeds=seeds,
        allow_weak_teacher=allow_weak_teacher,
    )  # fmt: skip
    recipe, may_run_code = resolve_recipe(words, typed, bank)
    run = commands.train(recipe, out=out, overwrite=overwrite, allow_code=allow_code or may_run_code, display=Display())
    print_outcome(run)


@app.command(cls=Command)
def compare(
    words: Words = None,
    rows: Rows = None,
    sweep: Sweep = None,
    teacher: TeacherOption = None,
    teacher_weights: TeacherWeights = None,
    train_teacher: TrainTeacher = None,
    student: StudentOption = None,
    student_weights: StudentWeights = None,
    data: DataOption = None,
    epochs: Epochs = None,
    seeds: Seeds = None,
    bank: Bank = None,
    out: Out = None,
    overwrite: Overwrite = False,
    allow_code: AllowCode = False,
    allow_weak_teacher: AllowWeak = False,
    format: Format = "text",
) -> None:
    """Train several rows of one recipe under shared teacher passes, and print one table.

    A row is a name, such as kd+dot, and trains what the shipped recipe of the same data and pair says for it; without
    one, the data set's or the method's defaults, which is said. --sweep makes rows that vary one setting each.
    """
    from understudy.cli import commands
    from understudy.cli.output import check_format, print_outcome

    check_format(format)
    typed = CliOverrides(
        teacher=teacher, teacher_weights=teacher_weights, train_teacher=train_teacher, student=student,
        student_weights=student_weights, data=data, rows=rows, sweeps=tuple(sweep or ()),
        epochs=epochs, seeds=seeds, allow_weak_teacher=allow_weak_teacher,
    )  # fmt: skip
    recipe, may_run_code = resolve_recipe(words, typed, bank)
    display = Display(to_stderr=format != "text")
    run = commands.compare(recipe, out=out, overwrite=overwrite, allow_code=allow_code or may_run_code, display=display)
    print_outcome(run, format=format)


@app.command(cls=Command)
def bank(
    words: Words = None,
    views: Annotated[int, typer.Option(metavar="V", help="Augmented versions of the training set.")] = 8,
    dtype: Annotated[str, typer.Option(metavar="float16|float32", help="Of what is stored.")] = "float16",
    topk: Annotated[
        int | None, typer.Option(metavar="K", help="Keep the K largest logits and the mass of the rest.")
    ] = None,
    feature_maps: Annotated[
        bool, typer.Option("--feature-maps", help="Store feature maps too, where methods read them.")
    ] = False,
    rows: Rows = None,
    teacher: TeacherOption = None,
    teacher_weights: TeacherWeights = None,
    student: StudentOption = None,
    data: DataOption = None,
    method: MethodOption = None,
    seeds: Seeds = None,
    out: Out = None,
    allow_code: AllowCode = False,
    allow_weak_teacher: AllowWeak = False,
) -> None:
    """Run the teacher once over V views of the training set and store what the recipe's methods read of it."""
    from understudy.cli import commands
    from understudy.runs.bank.make import BankOptions

    typed = CliOverrides(
        teacher=teacher, teacher_weights=teacher_weights, student=student, data=data, method=method, rows=rows,
        seeds=seeds, allow_weak_teacher=allow_weak_teacher,
    )  # fmt: skip
    recipe, may_run_code = resolve_recipe(words, typed)
    options = BankOptions(views=views, dtype=dtype, topk=topk, feature_maps=feature_maps)
    folders = commands.bank(recipe, out=out, options=options, allow_code=allow_code or may_run_code, display=Display())
    typer.echo(f"Train from it with --bank {folders[0].parent}")


@app.command(cls=Command)
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The run folder.")] = Path("runs/demo"),
) -> None:
    """Distil handwritten digits in a minute: no download, no settings."""
    from understudy.cli import commands
    from understudy.cli.output import print_outcome

    run = commands.demo(out, display=Display())
    print_outcome(run)
    typer.echo(commands.next_commands())


@app.command(cls=Command)
def check(
    words: Words = None,
    teacher: TeacherOption = None,
    teacher_weights: TeacherWeights = None,
    train_teacher: TrainTeacher = None,
    student: StudentOption = None,
    student_weights: StudentWeights = None,
    data: DataOption = None,
    method: MethodOption = None,
    update: UpdateOption = None,
    epochs: Epochs = None,
    seeds: Seeds = None,
    bank: Bank = None,
    allow_code: AllowCode = False,
    allow_weak_teacher: AllowWeak = False,
) -> None:
    """Everything short of training: models, taps, shapes, the teacher's accuracy, time and memory."""
    from understudy.runs import preflight

    typed = CliOverrides(
        teacher=teacher, teacher_weights=teacher_weights, train_teacher=train_teacher, student=student,
        student_weights=student_weights, data=data, method=method, update=update, epochs=epochs, seeds=seeds,
        allow_weak_teacher=allow_weak_teacher,
    )  # fmt: skip
    recipe, may_run_code = resolve_recipe(words, typed, bank)
    preflight.check(recipe, allow_code=allow_code or may_run_code, display=Display())


@app.command(cls=Command)
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    split: Annotated[str, typer.Option(metavar="val|test", help="Which images.")] = "val",
    data: DataOption = None,
    allow_code: AllowCode = False,
) -> None:
    """Score the student of a run again, on its own data or on another folder."""
    from understudy.runs.evaluate import evaluate as evaluate_run
    from understudy.runs.folder import open_run_folder

    typer.echo(evaluate_run(open_run_folder(run), split=split, data=data, allow_code=allow_code))


@app.command(cls=Command)
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    format: Format = "text",
) -> None:
    """Write the page of a run anew, and print its table."""
    from understudy.cli.output import check_format, print_outcome
    from understudy.report import write_report
    from understudy.runs.folder import open_run_folder

    check_format(format)
    folder = open_run_folder(run)
    folder.results()
    write_report(folder.path)
    print_outcome(folder, format=format)


@app.command(cls=Command)
def methods(name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None) -> None:
    """List the methods, or print the page of one."""
    from understudy.cli.method_pages import method_list, method_page

    typer.echo(method_list() if name is None else method_page(name).rstrip())


@app.command(cls=Command)
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    onnx: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the ONNX model.")],
    allow_code: AllowCode = False,
) -> None:
    """Write the student as ONNX, check it against torch, and print sizes and latencies."""
    from understudy.cli import commands
    from understudy.runs.folder import open_run_folder

    typer.echo(commands.export(open_run_folder(run), onnx, allow_code=allow_code))


def main(arguments: list[str] | None = None) -> None:
    """The console entry point: 0 done, 1 a bug, 2 something to mend, 130 or 143 stopped by a signal."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with said_once() as who:
        try:
            name_updates()
            app([word for word in words if word != "--debug"])
        except UserError as error:
            if "--debug" in words:
                raise
            typer.echo(visible(f"{who}{error}"), err=True)
            sys.exit(2)
        except Interrupted as stop:
            if not who:
                typer.echo(f"stopped after step {stop.step:,}; the same command continues from here", err=True)
            sys.exit(128 + (stop.signal or signal.SIGINT))


if __name__ == "__main__":
    main()
