"""distill(): a recipe's run from Python's own networks and data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from understudy.api.named import as_setting, checked_or_named, folder_of, is_folder
from understudy.api.parts import parts_in_memory
from understudy.core.taps import TappedModel
from understudy.data import Augment
from understudy.data.loaders.workers import refuse_in_a_worker
from understudy.distributed.launch import device_named
from understudy.methods import MethodConfig
from understudy.optim import Schedule, UpdateConfig
from understudy.recipes.comparison import Variant, rows_of
from understudy.recipes.schema import Recipe, recipe_from
from understudy.report import Results, read_results, write_report
from understudy.report.formatting import score as formatted
from understudy.report.formatting import with_unit
from understudy.runs.build import build_student as build_row
from understudy.runs.components import Components
from understudy.runs.console import Display
from understudy.runs.folder import RunFolder
from understudy.runs.identity import data_identity, network_identity
from understudy.runs.reopen import student_of
from understudy.runs.run import execute
from understudy.utils.errors import UserError, shortened_repr
from understudy.utils.seeding import alone
from understudy.utils.untrusted import given_path

__all__ = ["Result", "distill"]

GIVEN_AS_OBJECTS = {
    "data": ("root", "format", "streaming", "image_size"),
    "teacher": ("model", "weights", "kwargs"),
    "student": ("model", "weights", "kwargs"),
}
GIVEN_BY_NAME = {"data": ("root",), "teacher": ("model",), "student": ("model",)}


@dataclass(frozen=True)
class Result:
    """What `distill` leaves.

    Attributes:
        student: the trained copy of the student in evaluation mode, of its own class and with its own keys; it takes
            images as the data set gives them. One that was given by name prepares images itself, those in [0,1] where
            the data set does not normalise them. A method that deploys more (simkd) has it within a module of its own.
        results: everything that was measured.
        run: the run folder.
    """

    student: nn.Module
    results: Results
    run: RunFolder

    def __repr__(self) -> str:
        scored = f"{self.results.headline_metric}={self.score:.2f}"
        return f"Result({scored}, run={str(self.run.path)!r}, student={type(self.student).__name__})"

    @property
    def score(self) -> float:
        """By the task's headline metric on the test images (the validation images without a test set), last epoch.

        The mean over the seeds of the row that `student` is of, where `settings` ask for several.
        """
        deployed = self.results.deployed and self.results.row(self.results.deployed.row)
        return self.results.score(deployed or self.results.rows[0]).mean

    @property
    def top1(self) -> float:
        """The `score` of a classifier: percent of the images.

        Raises:
            AttributeError: the task is scored by something else.
        """
        if self.results.headline_metric != "top1":
            raise AttributeError(f"this run is scored by {self.results.metric.title}; read result.score")
        return self.score

    def report(self, file: str | Path) -> Path:
        """Write the run's page to `file`."""
        return write_report(self.run.path, Path(file))


def distill(
    teacher: nn.Module | str | None,
    student: nn.Module | str,
    *,
    train: Any,
    val: Any = None,
    test: Any = None,
    method: str | MethodConfig | Sequence[str | MethodConfig] = "kd",
    update: str | UpdateConfig = "joint",
    schedule: Schedule | None = None,
    task_weight: float | None = None,
    epochs: int = 30,
    batch_size: int = 64,
    augment: str | Augment | None = None,
    copies: str = "none",
    drop_last: bool = False,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    allow_weak_teacher: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Result:
    """Distil `teacher` into a copy of `student`.

    Args:
        teacher: a trained classifier, (B,3,H,W) images as the data set gives them to (B,C) logits; None for the
            methods that ask none, and for "none". Or a name such as "timm:resnet34", with a new classifier:
            settings={"teacher": {"train_epochs": 10}} trains it first on these images.
        student: the network that learns; its weights are where the copy starts. Or a name, likewise. What is by name
            starts from pretrained weights where they can be had.
        train: a folder of images, as the command line's --data takes it; or a torch Dataset (or a Hugging Face one, or
            a DatasetDict) of (image, label); its own transforms stay in force, drawn anew each epoch. Labels are those
            that its samples have, whatever a list beside them says. docs/python-inputs.md has the table of all that is
            taken.
        val: likewise (of folders: one beside `train`), its classes matched with those of `train` by name; None: a fifth
            of `train` is held out by seed, without what torchvision's transforms of it draw; where that cannot be taken
            away, a note says so.
        test: likewise; read once, at the end.
        method: what is distilled: a name, settings such as `methods.DIST.Config(tau=4)`, or several of these.
        update: a name, such as joint or dot, or settings such as `DOT.Config(lr=0.1)`.
        schedule: learning rate over the epochs; None: cosine.
        task_weight: None: the method's default.
        epochs: passes over `train`.
        batch_size: B.
        augment: "none" leaves that to the data set; "crop_flip" and "resized_crop" are understudy's own. None: "none"
            for data sets, "auto" for a folder: what its images' size suggests.
        copies: "rotations" shows each image at four turns, which sskd and hsakd compare; "pairs" in two augmentations,
            which mlld compares (settings={"data": {"second_augment": ...}} makes the second one strong).
        drop_last: leave out an epoch's last batch where it is smaller.
        classes: label names; None: `train.classes`, else the numbers.
        seed: of everything random.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        out: the run folder, in which an unfinished run of the same networks, data and settings goes on, and no other
            does; None: a numbered one in runs/, an unfinished one of just the same where there is one.
        overwrite: replace what a run has left in `out`.
        quiet: print nothing.
        allow_weak_teacher: go on with a teacher at chance level.
        settings: anything else of a recipe, such as {"ema": 0.999, "precision": "bfloat16", "select_on": "val"}, or
            {"teacher": {"classes": [281, 207]}}: which class of the teacher's stands for each class of the data.

    Returns:
        The trained copy, its scores and its run folder.

    Raises:
        UserError: anything a person can mend; also while another thread of this process trains.
    """
    refuse_in_a_worker()
    root = folder_of(train, val, test) if is_folder(train) else None
    teacher, student = checked_or_named(teacher, role="teacher"), checked_or_named(student, role="student")
    is_all_by_name = root is not None and isinstance(student, str) and not isinstance(teacher, nn.Module)
    by_name = list(GIVEN_BY_NAME) if is_all_by_name else ["data"] if root is not None else []
    _refuse_other_settings(settings, out, classes, has_teacher=teacher is not None, by_name=by_name)
    if is_all_by_name and classes is not None:
        raise UserError("classes: a folder names its classes itself; leave it out")
    recipe = recipe_from(
        {
            "data": {
                "root": root if is_all_by_name else f"python:{root or type(train).__name__}",
                "batch_size": batch_size,
                "augment": augment or ("none" if root is None else "auto"),
                "copies": copies,
                "drop_last": drop_last,
                "split_seed": seed,
            },
            "teacher": None if teacher is None else {**as_setting(teacher), "allow_weak": allow_weak_teacher},
            "student": as_setting(student),
            "method": method,
            "update": update,
            "schedule": schedule or Schedule(),
            "task_weight": task_weight,
            "epochs": epochs,
            "seeds": [seed],
            "device": str(device),
        },
        settings=settings,
        what="these settings",
    )
    options: dict[str, Any] = {"out": None if out is None else given_path(out, what="out"), "overwrite": overwrite}
    options |= {"name": "distill", "display": Display(quiet=quiet)}
    with alone("distill()"):
        if is_all_by_name:
            result = _by_name(recipe, options)
        else:
            names = classes and [str(name) for name in classes]
            result = _from_objects(recipe, teacher, student, (train, val, test), root, names, options)
    if not quiet:
        metric = result.results.metric
        print(f"{metric.title} {with_unit(formatted(result.score, metric), metric)}   {result.run.path}")
    return result


def _by_name(recipe: Recipe, options: Mapping[str, Any]) -> Result:
    """The run of a recipe that names everything, as the command line has it."""
    run = execute(recipe, allow_code=True, **options)
    device = device_named(recipe.device)
    return Result(student_of(run, allow_code=True).to(device), read_results(run.path), run)


def _from_objects(
    recipe: Recipe,
    teacher: nn.Module | str | None,
    student: nn.Module | str,
    sets: tuple[Any, Any, Any],
    root: str | None,
    classes: Sequence[str] | None,
    options: Mapping[str, Any],
) -> Result:
    """The run of networks or data that are here alone."""
    seed = recipe.seeds[0]
    components = parts_in_memory(recipe, teacher, student, sets, root=root, classes=classes)
    found = {} if components.data.greys is None else {"grey_range": components.data.greys}
    recipe = components.recipe.model_copy(update={"data": components.recipe.data.model_copy(update=found)})
    image_shape = components.build_context(seed).sample.shape[1:]
    opened = {"student": components.student_network, "teacher": components.teacher_network}
    networks = {
        role: given if isinstance(given, nn.Module) else None if network is None else network.module
        for (role, network), given in zip(opened.items(), (student, teacher), strict=True)
    }
    run = execute(
        recipe,
        components=components,
        # Another call with other networks or data must not be taken for this one's continuation.
        handed_over={
            **{
                role: None if network is None else network_identity(network, image_shape=image_shape)
                for role, network in networks.items()
            },
            **data_identity(components.data, {} if root else dict(zip(("train", "val", "test"), sets, strict=True))),
        },
        **options,
    )
    results = read_results(run.path)
    row = next(row for row in rows_of(recipe) if results.deployed is None or row.name == results.deployed.row)
    return Result(_trained_student(run, components, row, seed).to(components.device), results, run)


def _refuse_other_settings(
    settings: object, out: object, classes: object, *, has_teacher: bool, by_name: Sequence[str]
) -> None:
    """Refuse what is no settings, folder or names, and settings that would speak of other networks or data."""
    if not isinstance(settings, Mapping | None):
        raise UserError(f"settings must be a mapping such as {{'ema': 0.999}}, got {shortened_repr(settings)}")
    if not isinstance(out, str | os.PathLike | None):
        raise UserError(f"out must be a folder's name, got {shortened_repr(out)}")
    if not isinstance(classes, Sequence | None) or not all(isinstance(name, str | int) for name in classes or ()):
        raise UserError(f"classes must be names, one for each class in order, got {shortened_repr(classes)}")
    if not has_teacher and (settings or {}).get("teacher") is not None:
        raise UserError("settings: teacher says nothing here, where no teacher is given; leave it out")
    for group, keys in GIVEN_AS_OBJECTS.items():
        named = (settings or {}).get(group)
        said = GIVEN_BY_NAME[group] if group in by_name else keys
        found = [key for key in said if isinstance(named, Mapping) and key in named]
        if found and group in by_name:
            raise UserError(f"settings: {group}.{found[0]} is what distill() was given already; leave it out")
        if found:
            raise UserError(
                f"settings: {group}.{found[0]} says nothing here, where networks and data sets are handed over as "
                "objects that are taken as they are; leave it out"
            )


def _trained_student(run: RunFolder, components: Components, row: Variant, seed: int) -> nn.Module:
    """What the run deploys, in evaluation mode: the student's own class, or what its method makes of it."""
    built = build_row(components, row, seed)
    is_plain = built.raw_deployed() is built.model.module
    trained = _run_once(components, seed) if is_plain else built.deployed()  # without taps where it can be
    # Written from a module of just these keys: nothing has to be found out about them, as `load_weights` does.
    trained.load_state_dict(load_file(run.student / "model.safetensors"))
    trained = trained.to(memory_format=torch.contiguous_format).eval()  # as most code expects it
    network = replace(components.student_network, module=trained)
    return trained if network.prepare.does_nothing else network.prepared.eval()


def _run_once(components: Components, seed: int) -> nn.Module:
    """A fresh student with all that it registers in its first pass."""
    module = components.make_student().module.to(components.device)
    TappedModel(module, name="student").dry_forward(components.build_context(seed).sample)
    return module
