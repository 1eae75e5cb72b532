"""What the commands do, without the command line: settings in, text or a run folder out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from understudy.cli.drawn_boxes import write_boxes
from understudy.cli.overrides import image_size_typed
from understudy.cli.predictions import check_prediction_format, write_mask, written_as
from understudy.cli.written_pictures import PictureFolder
from understudy.core.image_size import checked_size
from understudy.data.sources.found import BadImages
from understudy.methods import METHODS
from understudy.models.export import FORMATS, Format
from understudy.models.export.onnx import Onnx
from understudy.recipes.comparison import row_named, rows_of, written_out
from understudy.recipes.schema import Recipe, load_recipe
from understudy.report.licences import is_exported_here
from understudy.report.predict_options import code_options, predict_option
from understudy.runs.bank.layout import BankOptions
from understudy.runs.bank.make import make_banks
from understudy.runs.console import Display
from understudy.runs.evaluate import evaluate as evaluate_run
from understudy.runs.export import BoxForm, Wanted, check_wanted
from understudy.runs.export import export as export_run
from understudy.runs.folder import RunFolder, open_run_folder
from understudy.runs.folder_choice import goes_on_unturned
from understudy.runs.predict import Prediction, predictions
from understudy.runs.reopen import built_alike
from understudy.runs.run import execute
from understudy.utils.errors import UserError, unknown_name
from understudy.utils.text import listed
from understudy.utils.untrusted import given_path, visible

__all__ = [
    "Exports",
    "bank",
    "compare",
    "demo",
    "deployment_commands",
    "evaluate",
    "export",
    "next_commands",
    "predict",
    "train",
]

MOST_PROBLEMS = 5
DEMOS = {  # recipe and data, by task
    "classification": ("digits/demo", "real handwritten digits (UCI, 1,797 images of 8x8 pixels)"),
    "segmentation": ("segmentation/shapes/demo", "shapes drawn on noise (256 images of 64x64 pixels, a mask each)"),
    "detection": ("detection/shapes/demo", "shapes drawn on noise (512 images of 64x64 pixels, a box around each)"),
}
OWN_DATA = {  # by task: teacher, student and rows to try on data of one's own
    "classification": ("timm:resnet34", "timm:mobilenetv3_small_050", "alone,kd,dist,projector", "YOUR/IMAGES"),
    "segmentation": ("deeplabv3:resnet50", "fpn:mobilenetv3_small_100", "alone,kd,dist,at", "YOUR/MASKS"),
    "detection": ("fasterrcnn:resnet50", "fasterrcnn:mobilenetv2_100", "alone,dkd,dist,fgfi", "YOUR/BOXES"),
}
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


def demo(out: Path, *, task: str = "classification", display: Display) -> RunFolder:
    """Run the shipped demo recipe of a task; it replaces its own finished run."""
    if task not in DEMOS:
        raise UserError(f"--task {task!r} is {unknown_name(task, DEMOS)}")
    name, data = DEMOS[task]
    recipe = load_recipe(name)
    display.say(f"understudy demo · {data} · {recipe.threads} CPU thread")
    run = RunFolder(out)
    is_own = run.recipe_file.is_file()
    if goes_on_unturned(recipe, out=out, name="demo", overwrite=False):
        recipe = recipe.with_data(exif_rotation=False)
    if is_own and not run.is_finished and run.recipe() != recipe.as_dict():
        raise UserError(f"{out} holds an unfinished run of another recipe; take another --out")
    return execute(recipe, name="demo", out=out, overwrite=is_own and run.is_finished, display=display)


def evaluate(run: RunFolder, *, split: str, data: str | None, module: str | None, allow_code: bool) -> str:
    """Score the run's student; its scores in words, what was left out on stderr."""
    built = built_alike(run, module, allow_code=allow_code)
    return evaluate_run(run, split=split, data=data, allow_code=allow_code, module=built, say=_to_stderr).text


def _to_stderr(note: str) -> None:
    typer.echo(visible(note), err=True)


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How pictures are answered."""

    topk: int = 3
    format: str = "table"
    teacher: bool = False  # its answers beside the student's
    masks: Path | None = None  # where masks are written
    boxes: Path | None = None  # where pictures with boxes are


def predict(student: Path, images: Sequence[Path], how: Answering, *, module: str | None, allow_code: bool) -> None:
    """Print what is said of pictures; what a person should know goes to stderr.

    Raises:
        UserError: as `understudy.runs.predict`; also where not one picture can be read.
    """
    check_prediction_format(how.format)
    run = RunFolder(given_path(student, what="student"))
    if module is not None and not run.is_run:
        raise UserError("--module builds the student of a run folder; give the run")
    built = built_alike(run, module, allow_code=allow_code)
    found = predictions(
        student, images, topk=how.topk, teacher=how.teacher, module=built, allow_code=allow_code, say=_to_stderr
    )
    masks = None if how.masks is None else PictureFolder(how.masks, "--masks")
    boxes = None if how.boxes is None else PictureFolder(how.boxes, "--boxes")
    problems = []
    num_images = 0

    def counted() -> Iterator[Prediction]:
        nonlocal num_images
        for one in found:
            num_images += 1
            if one.problem is not None:
                problems.append(f"{one.image}: {one.problem}")
            else:
                if masks is not None:
                    write_mask(one, masks)
                if boxes is not None:
                    write_boxes(one, boxes)
            yield one

    for line in written_as(how.format, counted(), has_teacher=how.teacher):
        typer.echo(line)
    if len(problems) == num_images:
        raise UserError(f"no image could be read: {listed(problems, MOST_PROBLEMS)}")
    if problems:
        _to_stderr(BadImages(problems, ("image cannot be read", "images cannot be read")).left_out())


@dataclass(frozen=True, kw_only=True)
class Exports:
    """Files that were asked for, and how they are written."""

    onnx: Path | None = None
    opset: int | None = None
    float16: bool = False
    int8: Path | None = None
    pt2: Path | None = None
    torchscript: Path | None = None
    openvino: Path | None = None
    image_size: str | None = None
    raw: bool = False

    def boxes(self) -> BoxForm:
        """What is asked for of a detector's files."""
        size = None if self.image_size is None else checked_size(image_size_typed(self.image_size), what="--image-size")
        return BoxForm(size=size, raw=self.raw)

    def wanted(self) -> list[Wanted]:
        """The files with their formats."""
        if self.onnx is None and (self.opset is not None or self.float16):
            raise UserError(f"{'--float16' if self.float16 else '--opset'} is of --onnx FILE; give that, too")
        plain = {name: FORMATS[name]() for name in ("int8", "pt2", "torchscript", "openvino")}
        formats: dict[str, Format] = {"onnx": Onnx(opset=self.opset, float16=self.float16), **plain}
        given = {name: getattr(self, name) for name in formats}
        return [Wanted(formats[name], file) for name, file in given.items() if file is not None]


def export(
    run: Path, exports: Exports, *, data: str | None, images: int | None, module: str | None, allow_code: bool
) -> str:
    """Write the run's student into files; sizes, scores and latencies in words.

    Raises:
        UserError: as `understudy.runs.export`; where only some files could be written, the report is on stdout by then.
    """
    wanted = exports.wanted()
    check_wanted(wanted)
    folder = open_run_folder(run)
    built = built_alike(folder, module, allow_code=allow_code)
    report = export_run(
        folder,
        wanted,
        data=data,
        most_images=images,
        module=built,
        boxes=exports.boxes(),
        allow_code=allow_code,
        say=_to_stderr,
    )
    if report.failed:
        typer.echo(report.describe())
        raise UserError("\n".join(report.failed))
    return report.describe()


def next_commands(task: str = "classification") -> str:
    """Two commands to try after the demo of a task, in a form that can be pasted."""
    name, (teacher, student, rows, data) = _program(), OWN_DATA[task]
    settings = " data.batch_size=4 update.lr=0.01" if task == "detection" else ""
    return (
        f"Next: {name} compare --teacher {teacher} --train-teacher 10 \\\n"
        f"          --student {student} --rows {rows} \\\n"
        f"          --seeds 3 --data {data}{settings}\n"
        f"      {name} methods            ({len(METHODS)} ways to distil, each with its paper)"
    )


def deployment_commands(run: RunFolder) -> str:
    """What to do with a student that is trained, in a form that can be pasted."""
    name, folder = _program(), shlex.quote(str(run.path))
    model = str((run.recipe().get("student") or {}).get("model"))
    code, _ = code_options(model)
    export = f"\n      {name} export {folder} --onnx student.onnx{code}" if is_exported_here(model) else ""
    option, _ = predict_option(str(run.recipe().get("task")))
    return f"Next: {name} predict {folder} IMAGES...{code}{option}{export}"


def _program() -> Path:
    program = Path(sys.argv[0])
    return program if program.name == "understudy" and program.is_file() else Path("understudy")


def _data_name(recipe: Recipe) -> str:
    return given_path(recipe.data.root, what="data.root").resolve().name or "run"
