"""Typer commands: parse, call, print. A command is listed when it works."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from understudy import commands
from understudy.config import UserError, unknown_name
from understudy.distributed import said_once
from understudy.logs import Display
from understudy.method_pages import method_list, method_page
from understudy.methods import load_installed_methods
from understudy.recipe import Recipe, merged, recipe_from
from understudy.recipe_files import STRATEGIES, read_recipes, recipe_names, strategy_names
from understudy.report import (
    ALONE,
    FORMATS,
    comparison_table,
    headline,
    read_results,
    read_timing,
    render,
    rich_table,
    row_sentence,
)
from understudy.runfolder import open_run_folder
from understudy.training import Interrupted
from understudy.untrusted import visible

__all__ = ["app", "main"]

UNWRAPPED_COLUMNS = 240

app = typer.Typer(
    name="understudy",
    help="Knowledge distillation of vision models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipes_app = typer.Typer(help="List the shipped recipes; `recipes show NAME` prints one resolved.")
app.add_typer(recipes_app, name="recipes")

Words = Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [STRATEGY]... [KEY=VALUE]...", show_default=False)]
TeacherOption = Annotated[
    str | None,
    typer.Option(
        "--teacher", metavar="MODEL", help="timm:NAME, torchvision:NAME, cifar:NAME, hf:NAME or module.path:factory."
    ),
]
StudentOption = Annotated[str | None, typer.Option("--student", metavar="MODEL", help="As --teacher.")]
TeacherWeights = Annotated[str | None, typer.Option(metavar="FILE|pretrained|none", help="Weights of the teacher.")]
StudentWeights = Annotated[
    str | None, typer.Option(metavar="FILE|pretrained|none", help="What the student starts from.")
]
TrainTeacher = Annotated[
    int | None, typer.Option(metavar="N", help="First fine-tune the teacher for N epochs on the same data.")
]
DataOption = Annotated[
    str | None,
    typer.Option("--data", metavar="FOLDER", help="Class folders, parquet, CIFAR as torchvision stores it, or digits."),
]
MethodOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="See `understudy methods`; several are joined by +.")
]
UpdateOption = Annotated[str | None, typer.Option(metavar="joint|dot", help="How losses become new weights.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training data.")]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="N|A,B,...", help="How many seeds (3 means 0, 1, 2), or which (4, or 1,5; a comma names them)."
    ),
]
Rows = Annotated[str | None, typer.Option(metavar="A,B,...", help="Such as alone,kd,kd+dot,dist.")]
Out = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="The run folder; without it, a numbered one under runs/.")
]
Bank = Annotated[
    Path | None, typer.Option("--bank", metavar="FOLDER", help="Look the teacher up where `understudy bank` stored it.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out holds.")]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let a recipe file name models as module.path:factory.")]
AllowWeak = Annotated[bool, typer.Option("--allow-weak-teacher", help="Go on with a teacher at chance level.")]
Format = Annotated[str, typer.Option("--format", metavar="text|md|csv|latex", help="Of the table.")]


@app.command()
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
    typed = commands.Typed(
        teacher=teacher, teacher_weights=teacher_weights, train_teacher=train_teacher, student=student,
        student_weights=student_weights, data=data, method=method, update=update, epochs=epochs, seeds=seeds,
        allow_weak_teacher=allow_weak_teacher,
    )  # fmt: skip
    recipe, may_run_code = _recipe(words, typed, bank)
    run = commands.train(recipe, out=out, overwrite=overwrite, allow_code=allow_code or may_run_code, display=Display())
    _print_outcome(run)


@app.command()
def compare(
    words: Words = None,
    rows: Rows = None,
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
    """Train several rows of one recipe under shared teacher passes, and print one table."""
    _check_format(format)
    typed = commands.Typed(
        teacher=teacher, teacher_weights=teacher_weights, train_teacher=train_teacher, student=student,
        student_weights=student_weights, data=data, rows=rows, epochs=epochs, seeds=seeds,
        allow_weak_teacher=allow_weak_teacher,
    )  # fmt: skip
    recipe, may_run_code = _recipe(words, typed, bank)
    display = Display(to_stderr=format != "text")
    run = commands.compare(recipe, out=out, overwrite=overwrite, allow_code=allow_code or may_run_code, display=display)
    _print_outcome(run, format=format)


@app.command()
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
    typed = commands.Typed(
        teacher=teacher, teacher_weights=teacher_weights, student=student, data=data, method=method, rows=rows,
        seeds=seeds, allow_weak_teacher=allow_weak_teacher,
    )  # fmt: skip
    recipe, may_run_code = _recipe(words, typed)
    options = commands.BankOptions(views=views, dtype=dtype, topk=topk, feature_maps=feature_maps)
    folders = commands.bank(recipe, out=out, options=options, allow_code=allow_code or may_run_code, display=Display())
    typer.echo(f"Train from it with --bank {folders[0].parent}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The run folder.")] = Path("runs/demo"),
) -> None:
    """Distil handwritten digits in a minute: no download, no settings."""
    run = commands.demo(out, display=Display())
    _print_outcome(run)
    typer.echo(commands.next_commands())


@app.command()
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
    typed = commands.Typed(
        teacher=teacher, teacher_weights=teacher_weights, train_teacher=train_teacher, student=student,
        student_weights=student_weights, data=data, method=method, update=update, epochs=epochs, seeds=seeds,
        allow_weak_teacher=allow_weak_teacher,
    )  # fmt: skip
    recipe, may_run_code = _recipe(words, typed, bank)
    commands.check(recipe, allow_code=allow_code or may_run_code, display=Display())


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    split: Annotated[str, typer.Option(metavar="val|test", help="Which images.")] = "val",
    data: DataOption = None,
    allow_code: AllowCode = False,
) -> None:
    """Score the student of a run again, on its own data or on another folder."""
    typer.echo(commands.evaluate(open_run_folder(run), split=split, data=data, allow_code=allow_code))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    format: Format = "text",
) -> None:
    """Write the page of a run anew, and print its table."""
    _check_format(format)
    folder = open_run_folder(run)
    folder.results()
    commands.write_report(folder.path)
    _print_outcome(folder, format=format)


@app.command()
def methods(name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None) -> None:
    """List the methods, or print the page of one."""
    typer.echo(method_list() if name is None else method_page(name).rstrip())


@recipes_app.callback(invoke_without_command=True)
def recipes(context: typer.Context) -> None:
    """List the shipped recipes."""
    if context.invoked_subcommand is None:
        typer.echo("\n".join(recipe_names()))
        typer.echo("\nStrategies, to be laid on a recipe as in `understudy train RECIPE STRATEGY`:")
        typer.echo("\n".join(strategy_names()))


@recipes_app.command("show")
def recipes_show(words: Words = None) -> None:
    """Print a recipe with everything that it extends and every default, or a strategy as it is."""
    is_strategy = bool(words) and all(word.startswith(STRATEGIES) for word in words or [])
    settings = read_recipes(words or []) if is_strategy else _recipe(words, commands.Typed())[0].as_dict()
    typer.echo(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), nl=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    onnx: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the ONNX model.")],
    allow_code: AllowCode = False,
) -> None:
    """Write the student as ONNX, check it against torch, and print sizes and latencies."""
    typer.echo(commands.export(open_run_folder(run), onnx, allow_code=allow_code))


def main(arguments: list[str] | None = None) -> None:
    """The console entry point: 0 done, 1 a bug, 2 something to mend, 130 or 143 stopped by a signal."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with said_once() as who:
        try:
            load_installed_methods()
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


def _recipe(words: list[str] | None, typed: commands.Typed, bank: Path | None = None) -> tuple[Recipe, bool]:
    """The recipe that the command line means, and whether all code it names was typed there."""
    overrides = [word for word in words or [] if "=" in word]
    names = [word for word in words or [] if "=" not in word]
    base: dict[str, Any] = merged(read_recipes(names), {} if bank is None else {"bank": {"path": str(bank)}})
    recipe = recipe_from(
        typed.laid_on(base), overrides, what=f"recipe {' with '.join(names)}" if names else "these settings"
    )
    return recipe, typed.names_all_code_of(recipe, overrides)


def _check_format(format: str) -> None:
    known = ["text", *FORMATS]
    if format not in known:
        raise UserError(f"--format {format!r} is {unknown_name(format, known)}")


def _print_outcome(run: commands.RunFolder, *, format: str = "text") -> None:
    results, timing = read_results(run.path), read_timing(run.timing_file)
    table = comparison_table(results, timing)
    if format != "text":
        typer.echo(render(table, format), nl=False)
        typer.echo(f"{headline(results)}\nPage: {run.report_file}", err=True)  # a pipe gets the table alone
        return
    # Without a terminal nothing tells the width: nothing is cut, nothing is wrapped.
    has_width = sys.stdout.isatty()
    console = Console(highlight=False, soft_wrap=not has_width, width=None if has_width else UNWRAPPED_COLUMNS)
    console.print(rich_table(table, width=console.width if has_width else None))
    for note in table.notes:
        console.print(note, style="dim", markup=False)
    best = results.best_row
    typer.echo(headline(results) if best is None else row_sentence(results, best, timing))
    for row in results.rows:
        if best is not None and row.name not in (best.name, ALONE) and results.comparison(row.name, ALONE) is not None:
            typer.echo(row_sentence(results, row))
    typer.echo(f"Page: {run.report_file}")


if __name__ == "__main__":
    main()
