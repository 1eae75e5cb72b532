"""Typer commands: parse, call, print. A command is listed when it works.

A command imports what it does within its body, so that --help and --version need no torch.
"""

from __future__ import annotations

import shlex
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.analyze import analyze
from understudy.cli.command import Command, takes_recipe
from understudy.cli.deploy import export, predict, push
from understudy.cli.messages import speaking_of
from understudy.cli.options import AllowCode, DataOption, Format, ModuleOption, RecipeOptions, name_updates
from understudy.cli.output import columns, echo
from understudy.cli.overrides import resolve_recipe
from understudy.cli.recipes import recipes_app
from understudy.distributed.environment import said_once
from understudy.runs.console import Display
from understudy.utils.errors import UserError
from understudy.utils.files import refused_by_the_disk
from understudy.utils.interrupted import Interrupted
from understudy.utils.out_of_memory import out_of_memory
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
@takes_recipe(without=("rows", "sweep"))
def train(typed: RecipeOptions) -> None:
    """Distil a student by a recipe, by options, or by both."""
    from understudy.cli import commands
    from understudy.cli.output import print_outcome

    recipe, allow_code = resolve_recipe(typed)
    run = commands.train(recipe, out=typed.out, overwrite=typed.overwrite, allow_code=allow_code, display=Display())
    print_outcome(run)
    typer.echo(commands.deployment_commands(run))


@app.command(cls=Command)
@takes_recipe(without=("method", "update"))
def compare(typed: RecipeOptions, format: Format = "text") -> None:
    """Train several rows of one recipe under shared teacher passes, and print one table.

    A row is a name, such as kd+dot, and trains what the shipped recipe of the same data and pair says for it; without
    one, the data set's or the method's defaults, which is said. --sweep makes rows that vary one setting each.
    """
    from understudy.cli import commands
    from understudy.cli.output import check_format, print_outcome

    check_format(format)
    recipe, allow_code = resolve_recipe(typed)
    display = Display(to_stderr=format != "text")
    run = commands.compare(recipe, out=typed.out, overwrite=typed.overwrite, allow_code=allow_code, display=display)
    print_outcome(run, format=format)


@app.command(cls=Command)
@takes_recipe(
    only=(
        "words", "rows", "teacher", "teacher_weights", "student", "data", "task", "method", "batch_size", "image_size",
        "workers", "device", "threads", "seeds", "out", "allow_code", "allow_weak_teacher",
    )
)  # fmt: skip
def bank(
    *,
    views: Annotated[int, typer.Option(metavar="V", help="Augmented versions of the training set.")] = 8,
    dtype: Annotated[str, typer.Option(metavar="float16|float32", help="Of what is stored.")] = "float16",
    topk: Annotated[
        int | None, typer.Option(metavar="K", help="Keep the K largest logits and the mass of the rest.")
    ] = None,
    feature_maps: Annotated[
        bool, typer.Option("--feature-maps", help="Store feature maps too, where methods read them.")
    ] = False,
    typed: RecipeOptions,
) -> None:
    """Run the teacher once over V views of the training set and store what the recipe's methods read of it."""
    from understudy.cli import commands
    from understudy.runs.bank.layout import BankOptions

    recipe, allow_code = resolve_recipe(typed)
    options = BankOptions(views=views, dtype=dtype, topk=topk, feature_maps=feature_maps)
    folders = commands.bank(recipe, out=typed.out, options=options, allow_code=allow_code, display=Display())
    bank_path = shlex.quote(str(folders[0].parent))
    knows = "its teachers" if recipe.teacher is not None and recipe.teacher.also else "its teacher"
    typer.echo(f"Train from it with --bank {bank_path} (recipe, data and student as here; it knows {knows})")


@app.command(cls=Command)
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The run folder.")] = Path("runs/demo"),
    task: Annotated[
        str, typer.Option(metavar="NAME", help="classification, segmentation or detection.")
    ] = "classification",
) -> None:
    """Distil handwritten digits, or masks or boxes of drawn shapes, in a minute or two: no download, no settings."""
    from understudy.cli import commands
    from understudy.cli.output import print_outcome

    run = commands.demo(out, task=task, display=Display())
    print_outcome(run)
    typer.echo(commands.next_commands(task))


@app.command(cls=Command)
@takes_recipe(without=("rows", "sweep", "out", "overwrite"))
def check(typed: RecipeOptions) -> None:
    """Everything short of training: models, taps, shapes, the teacher's accuracy, time and memory."""
    from understudy.runs import preflight

    recipe, allow_code = resolve_recipe(typed)
    preflight.check(recipe, allow_code=allow_code, display=Display())


@app.command(cls=Command)
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    split: Annotated[str, typer.Option(metavar="val|test", help="Which images.")] = "val",
    data: DataOption = None,
    module: ModuleOption = None,
    allow_code: AllowCode = False,
) -> None:
    """Score the student of a run again, on its own data or on another folder, of all its classes or of some."""
    from understudy.cli import commands
    from understudy.runs.folder import open_run_folder

    with speaking_of({} if data is None else {"data.root": "--data"}):
        said = commands.evaluate(open_run_folder(run), split=split, data=data, module=module, allow_code=allow_code)
    typer.echo(said)


@app.command(cls=Command)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; several make one page.")],
    out: Annotated[
        Path | None, typer.Option(metavar="PAGE", help="The page's file; without it, report.html in the run folder.")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Renew the page until the run ends; a browser follows.")] = False,
    format: Format = "text",
) -> None:
    """Write the page of a run anew, and print its table; of one that is not finished, what there is so far.

    Several runs on the same images and classes are laid side by side in one page.
    """
    from understudy.cli import pages
    from understudy.cli.output import check_format
    from understudy.runs.folder import open_run_folder

    check_format(format)
    folders = [open_run_folder(run) for run in runs]
    if len(folders) > 1:
        pages.report_several(folders, out=out, live=live, format=format)
    else:
        pages.report_one(folders[0], out=out, live=live, format=format)


app.command(cls=Command)(analyze)


@app.command(cls=Command)
def watch(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """Follow a run that another process carries on, until it ends; Ctrl-C ends the watching alone."""
    from understudy.cli.output import print_outcome
    from understudy.runs.folder import open_run_folder
    from understudy.runs.watch import watch as watch_run

    folder, display = open_run_folder(run), Display()
    try:
        is_finished = watch_run(folder, display=display)
    except KeyboardInterrupt:
        display.say("not watched any more; the run itself goes on")
        return
    if is_finished:
        print_outcome(folder)
    else:
        display.say(f"{run} is not running: the command that began it goes on from here")


@app.command(cls=Command)
def methods(name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None) -> None:
    """List the methods, or print the page of one."""
    from understudy.cli.method_pages import method_list, method_page

    echo(method_list(width=columns()) if name is None else method_page(name).rstrip(), hang=2)


app.command(cls=Command)(predict)


@app.command(cls=Command)
def settings(
    words: Annotated[list[str] | None, typer.Argument(metavar="WORD", show_default=False)] = None,
) -> None:
    """List the settings of a recipe: key, default, type, option and meaning; with WORDs those that they find."""
    from understudy.cli.settings_pages import settings_list

    typer.echo(settings_list(words or []))


app.command(cls=Command)(export)


app.command(cls=Command)(push)


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
            echo(visible(f"{who}{error}"), err=True)
            sys.exit(2)
        except (MemoryError, OSError, RuntimeError) as error:
            said = out_of_memory(error) or refused_by_the_disk(error)
            if said is None or "--debug" in words:
                raise
            echo(visible(f"{who}{said}"), err=True)
            sys.exit(2)
        except Interrupted as stop:
            if not who:
                echo(f"stopped after step {stop.step:,}; the same command continues from here", err=True)
            sys.exit(128 + (stop.signal or signal.SIGINT))


if __name__ == "__main__":
    main()
