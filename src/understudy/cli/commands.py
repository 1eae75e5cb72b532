"""What the commands do, without the command line: settings in, text or a run folder out."""

from __future__ import annotations

import sys
from pathlib import Path

from understudy.methods import METHODS
from understudy.models.onnx_export import export_onnx
from understudy.recipes.comparison import row_named, rows_of, written_out
from understudy.recipes.schema import Recipe, load_recipe
from understudy.runs.bank.make import BankOptions, make_banks
from understudy.runs.console import Display
from understudy.runs.folder import RunFolder
from understudy.runs.folder_choice import goes_on_unturned
from understudy.runs.reopen import image_sizes, refuse_what_python_made, student_of, teacher_of
from understudy.runs.run import execute
from understudy.utils.errors import UserError
from understudy.utils.untrusted import given_path

__all__ = ["bank", "compare", "demo", "export", "next_commands", "train"]

DEFAULT_ROWS = ("alone", "kd", "kd+dot", "dist")


def train(recipe: Recipe, *, out: Path | None, overwrite: bool, allow_code: bool, display: Display) -> RunFolder:
    """Run the recipe's own method and update."""
    recipe = recipe.model_copy(update={"rows": ()})
    name = f"{_data_name(recipe)}-{rows_of(recipe)[0].name.replace('+', '-')}"
    return execute(recipe, name=name, out=out, overwrite=overwrite, allow_code=allow_code, display=display)


def compare(recipe: Recipe, *, out: Path | None, overwrite: bool, allow_code: bool, display: Display) -> RunFolder:
    """Run several rows, by default the student alone and the most used ways to distil."""
    recipe = written_out(recipe if recipe.rows else _with_usual_rows(recipe, display))
    name = f"{_data_name(recipe)}-compare"
    return execute(recipe, name=name, out=out, overwrite=overwrite, allow_code=allow_code, display=display)


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
    if goes_on_unturned(recipe, out=out, name="demo", overwrite=False):
        recipe = recipe.with_data(exif_rotation=False)
    if is_own and not run.is_finished and run.recipe() != recipe.as_dict():
        raise UserError(f"{out} holds an unfinished run of another recipe; take another --out")
    return execute(recipe, name="demo", out=out, overwrite=is_own and run.is_finished, display=display)


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
        f"Next: {name} compare --teacher timm:resnet34 --train-teacher 10 \\\n"
        "          --student timm:mobilenetv3_small_050 --rows alone,kd,dist,projector \\\n"
        "          --seeds 3 --data YOUR/IMAGES\n"
        f"      {name} methods            ({len(METHODS)} ways to distil, each with its paper)"
    )


def _data_name(recipe: Recipe) -> str:
    return given_path(recipe.data.root, what="data.root").resolve().name or "run"
