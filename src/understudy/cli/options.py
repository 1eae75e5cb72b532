"""The options of commands, each declared once: `RecipeOptions` are those that several share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from understudy.utils.installed import installed_names, shipped_names

__all__ = [
    "SETTINGS",
    "AllowCode",
    "DataOption",
    "Format",
    "MasksOption",
    "ModuleOption",
    "RecipeOptions",
    "Words",
    "name_updates",
]

# Of commands that take a recipe, and of others too.
Words = Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [STRATEGY]... [KEY=VALUE]...", show_default=False)]
DataOption = Annotated[
    str | None,
    typer.Option("--data", metavar="FOLDER", help="Class folders, images with masks or boxes, parquet, CIFAR, digits."),
]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Run your own code: --method FILE.py:Class, or a recipe's models named so."),
]

ModuleOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.py:CLASS",
        help="What builds the student, of a run of understudy.distill or whose code has moved (with --allow-code).",
    ),
]

MasksOption = Annotated[
    Path | None,
    typer.Option("--masks", metavar="FOLDER", help="Of a segmenter: write a PNG with the class of each pixel."),
]

BoxesOption = Annotated[
    Path | None,
    typer.Option("--boxes", metavar="FOLDER", help="Of a detector: write the pictures with their boxes."),
]

Format = Annotated[str, typer.Option("--format", metavar="text|md|csv|latex", help="Of the table.")]

_UPDATE = typer.Option(metavar="NAME")  # `name_updates` gives it its words


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What was typed to a command that takes a recipe; a field's default where nothing was.

    Each field is an option of these commands, in this order, but of those that leave it out (`takes_recipe`). What it
    does to the recipe is in `with_options`.
    """

    words: Words = None
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Such as alone,kd,kd+dot,dist, each as in its shipped recipe; or names of this recipe's own rows.",
        ),
    ] = None
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            metavar="KEY=V1,V2,...",
            help="Rows that vary a setting: method.*, update.* or task_weight; several sweeps are combined.",
            show_default=False,
        ),
    ] = None
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="timm:NAME, torchvision:NAME, cifar:NAME, understudy:NAME, hf:NAME, FILE.py:Class or MODULE:factory.",
        ),
    ] = None
    teacher_weights: Annotated[
        str | None, typer.Option(metavar="FILE|pretrained|none", help="Weights of the teacher.")
    ] = None
    train_teacher: Annotated[
        int | None, typer.Option(metavar="N", help="First fine-tune the teacher for N epochs on the same data.")
    ] = None
    student: Annotated[str | None, typer.Option(metavar="MODEL", help="As --teacher.")] = None
    student_weights: Annotated[
        str | None, typer.Option(metavar="FILE|pretrained|none", help="What the student starts from.")
    ] = None
    data: DataOption = None
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="classification, segmentation or detection; without it, by the data."),
    ] = None
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="See `understudy methods`; or FILE.py:Class; several are joined by +."),
    ] = None
    update: Annotated[str | None, _UPDATE] = None
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None
    lr: Annotated[float | None, typer.Option(metavar="RATE", help="Learning rate (update.lr).")] = None
    weight_decay: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of the update (update.weight_decay).")
    ] = None
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="Images a step.")] = None
    image_size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Pixels a side, such as 224, or height x width, such as 96x160.")
    ] = None
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes that decode images.")] = None
    device: Annotated[str | None, typer.Option(metavar="auto|cpu|cuda|cuda:N|mps", help="Where networks run.")] = None
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="CPU threads of torch; without it, the faster of one and all.")
    ] = None
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N|A,B,...", help="How many seeds (3 means 0, 1, 2), or which (4, or 1,5; a comma names them)."
        ),
    ] = None
    bank: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Look the teacher up where `understudy bank` stored it.")
    ] = None
    tracker: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Who else keeps the metrics: csv, tensorboard, wandb, trackio, mlflow."),
    ] = None
    probes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="Look at students while they train: momenta, projector, losses, FILE.py:Class."
        ),
    ] = None
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The run folder; without it, a numbered one under runs/.")
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out holds.")] = False
    allow_code: AllowCode = False
    allow_weak_teacher: Annotated[
        bool, typer.Option("--allow-weak-teacher", help="Go on with a teacher at chance level.")
    ] = False


SETTINGS = {  # which setting of a recipe an option is for, by its field
    "teacher": "teacher.model",
    "teacher_weights": "teacher.weights",
    "train_teacher": "teacher.train_epochs",
    "allow_weak_teacher": "teacher.allow_weak",
    "student": "student.model",
    "student_weights": "student.weights",
    "data": "data.root",
    "task": "task",
    "batch_size": "data.batch_size",
    "image_size": "data.image_size",
    "workers": "data.workers",
    "method": "method",
    "update": "update.name",
    "lr": "update.lr",
    "weight_decay": "update.weight_decay",
    "epochs": "epochs",
    "seeds": "seeds",
    "rows": "rows",
    "bank": "bank.path",
    "tracker": "trackers",
    "probes": "probes",
    "device": "device",
    "threads": "threads",
}


def name_updates() -> None:
    """Have --help name the updates, those of installed packages by their entry points: nothing is imported for it."""
    names = [*shipped_names("optim"), *installed_names("understudy.updates")]
    _UPDATE.help = f"How losses become new weights: {', '.join(names)}."


name_updates()
