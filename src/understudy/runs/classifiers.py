"""Classifiers that are opened to predict: a run's student or teacher, a student's folder, an ONNX file, a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.core.image_size import ImageSize, height_and_width, size_from
from understudy.core.outputs import LOGITS
from understudy.data.augment.crops import crop_share
from understudy.data.sources.greys import Greys
from understudy.distributed.launch import device_named
from understudy.models import Network, Prepare, load_student_network
from understudy.models.export.onnx import OnnxFile, open_onnx
from understudy.models.network import channels_of
from understudy.models.several import SeveralNetworks
from understudy.recipes.schema import Recipe
from understudy.runs.classifier import Classifier, runs_of, scaled, viewed
from understudy.runs.components import open_components
from understudy.runs.finders import finder_of, finder_told, num_found
from understudy.runs.folder import RunFolder
from understudy.runs.reopen import image_sizes, made_by_python, recipe_of, results_of, student_network_of
from understudy.tasks.segmentation_settings import SegmentationConfig
from understudy.utils.errors import UserError
from understudy.utils.untrusted import given_path, plain_json

__all__ = ["Classifier", "open_classifier", "open_teachers", "teachers_by_name"]


def open_classifier(
    student: str | Path | nn.Module, *, module: nn.Module | None = None, allow_code: bool = False
) -> Classifier:
    """What a path or a module is.

    Args:
        student: a run folder, a student's folder, an ONNX file, or what `load_student` gives.
        module: as in `load_student`.
        allow_code: let a folder name a factory in somebody's own code.

    Raises:
        UserError: none of these, or one that cannot be opened.
    """
    if isinstance(student, nn.Module):
        return _of_module(student)
    path = given_path(student, what="student")
    if path.suffix.lower() == ".onnx" or (path.is_file() and path.suffix != ".json"):
        return _of_onnx(path)
    run = RunFolder(path)
    if run.is_run:
        network = student_network_of(run, allow_code=allow_code, module=module)
        recipe = recipe_of(run)
        size = image_sizes(run)[0] if recipe.task == "classification" else None
        return _of_network(network, size, recipe, str(path))
    if not path.exists():
        raise UserError(f"there is nothing at {path}; give a run folder, a student's folder or an ONNX file")
    network = load_student_network(path, module=module, allow_code=allow_code)
    beside = RunFolder(path.absolute().parent)
    is_of_a_run = path.name == beside.student.name and beside.is_run
    return _of_network(network, network.prepare.size, recipe_of(beside) if is_of_a_run else None, str(path))


def open_teachers(
    run: RunFolder, student: Classifier, *, allow_code: bool = False, module: nn.Module | None = None
) -> dict[str | None, Classifier]:
    """The teachers of a run, for the student's classes: under None the first, others by the head that learns from each.

    Args:
        run: a finished run.
        student: that they are shown beside.
        allow_code: as in `open_classifier`.
        module: the teacher itself, where Python handed it over.

    Raises:
        UserError: the run has none, it is not there any more, or it has other classes.
    """
    recipe, results = recipe_of(run), results_of(run)
    if recipe.teacher is None:
        raise UserError(f"{run.path} has no teacher: its student learnt alone")
    sample_size = image_sizes(run)[1]
    opened = {}
    for head, teacher in _teachers_of(run, recipe, allow_code=allow_code, module=module).items():
        found = replace(
            teacher,
            crop_share=1.0 if student.crop_share == 1 else crop_share(sample_size),
            classes=student.classes,
            applies_exif=student.applies_exif,
            greys=student.greys,
        )
        _check_finds_alike(found, student)
        num_outputs = found.num_found
        if num_outputs is None:
            num_outputs = found.logits(torch.zeros(1, found.channels, *height_and_width(sample_size))).shape[1]
        if num_outputs != results.data.num_classes:
            raise UserError(
                f"{found.name} tells {num_outputs} classes apart and its student "
                f"{results.data.num_classes}; they cannot be shown side by side"
            )
        opened[head] = found
    return opened


def _check_finds_alike(teacher: Classifier, student: Classifier) -> None:
    """Refuse a detector beside what is none."""
    if (teacher.finds is None) != (student.finds is None):
        raise UserError(
            f"{teacher.name} is {'no' if teacher.finds is None else 'a'} detector and {student.name} is "
            f"{'one' if teacher.finds is None else 'none'}; they cannot be shown side by side "
            "(understudy.detector(network, num_classes) makes one of what torchvision built)"
        )


def _teachers_of(
    run: RunFolder, recipe: Recipe, *, allow_code: bool, module: nn.Module | None
) -> dict[str | None, Classifier]:
    """For images of the size that the first one saw; the others resize these themselves, as in the run."""
    size = image_sizes(run)[1] if recipe.task == "classification" else None
    if module is not None:
        return {None: replace(_of_module(module, size, recipe), name=f"the teacher of {run.path}")}
    if made_by_python(run):
        raise UserError(f"{run.path}: its teacher was handed over in Python; there, predict(..., teacher=NETWORK)")
    if run.teacher.is_dir():
        networks: dict[str | None, Network] = {None: load_student_network(run.teacher, allow_code=allow_code)}
    else:
        networks = teachers_by_name(recipe, allow_code)
    names = {head: f"the teacher of {run.path}" if head is None else f"the teacher of {head}" for head in networks}
    return {head: _of_network(network, size, recipe, names[head]) for head, network in networks.items()}


def teachers_by_name(recipe: Recipe, allow_code: bool) -> dict[str | None, Network]:
    """The teachers as a run opens them, with the normalisation that its data give, by the head that learns from each.

    Args:
        recipe: with a teacher, which None stands for, and perhaps some beside it.
        allow_code: as in `open_classifier`.

    Raises:
        UserError: the run trained it itself, so that its name alone would give other weights; or it cannot be opened.
    """
    if recipe.teacher is not None and recipe.teacher.train_epochs > 0:
        raise UserError(
            "the run trained its teacher itself, and its folder teacher/ is not there any more; put it back"
        )
    bare = recipe.model_copy(
        update={
            "bank": None,
            "method": (),
            "rows": (),
            "student": recipe.student.model_copy(update={"weights": "none"}),
        }
    )
    network = open_components(bare, allow_code=allow_code, say=lambda _: None).teacher_network
    assert network is not None, "a recipe with a teacher and no bank has its network"
    if not isinstance(network.module, SeveralNetworks):
        return {None: network}
    return {None if head == LOGITS else head: part for head, part in network.module.parts.items()}


def _of_network(network: Network, size: ImageSize | None, recipe: Recipe | None, name: str) -> Classifier:
    network.module.to(device_named("auto"))
    is_dense = recipe is not None and recipe.task == "segmentation"
    views = recipe.segmentation if recipe is not None and is_dense else SegmentationConfig()
    return Classifier(
        name=name,
        logits=scaled(viewed(runs_of(network.prepared), views), None if recipe is None else recipe.data.shorter_side),
        align_corners=views.align_corners,
        classes=network.classes,
        image_size=size,
        crop_share=network.prepare.crop_share,
        applies_exif=True if recipe is None else recipe.data.exif_rotation,
        greys=_greys_of(recipe),
        channels=network.prepare.channels,
        finds=finder_of(network.prepared, None if recipe is None else recipe.data),
        num_found=num_found(network.prepared),
    )


def _of_module(module: nn.Module, size: ImageSize | None = None, recipe: Recipe | None = None) -> Classifier:
    """What `load_student` gives, or any classifier of images in [0,1]."""
    prepare = next((part for part in module.modules() if isinstance(part, Prepare)), None)
    classes = getattr(module, "classes", None)
    return Classifier(
        name=type(module).__name__,
        logits=runs_of(module),
        classes=tuple(map(str, classes)) if isinstance(classes, tuple | list) else None,
        image_size=size if prepare is None or prepare.size is None else prepare.size,
        crop_share=1.0 if prepare is None else prepare.crop_share,
        channels=channels_of(module),
        finds=finder_of(module, None if recipe is None else recipe.data),
        num_found=num_found(module),
    )


def _greys_of(recipe: Recipe | None) -> Greys | None:
    return None if recipe is None or recipe.data.grey_range == "auto" else recipe.data.grey_range


def _of_onnx(file: Path) -> Classifier:
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    opened = open_onnx(file)
    told = _told(opened.about)
    shape = opened.input_shape
    if len(shape) != 4:
        raise UserError(f"{file} takes {shape}, which are no images (B,D,H,W)")
    sides = [side for side in shape[2:] if isinstance(side, int)]
    size = told.get("size", sides if len(sides) == 2 else None)
    try:
        image_size = None if size is None else size_from(size)
        crop, greys = float(told.get("crop", 1.0)), told.get("grey_range")
        range_of_greys = None if greys is None else (float(greys[0]), float(greys[1]))
    except (ValueError, TypeError, LookupError) as error:
        raise UserError(f"{file}: what it says of its images cannot be read: {error}") from None
    classes = told.get("classes")
    finds = finder_told(opened.run, told, name=str(file))
    views = SegmentationConfig.read(told.get("segmentation") or {}, what=f"segmentation in {file}")
    return Classifier(
        name=str(file),
        finds=finds,
        logits=scaled(viewed(_one_by_one(opened), views), told.get("shorter_side")),
        align_corners=views.align_corners,
        classes=tuple(map(str, classes)) if isinstance(classes, list) else None,
        image_size=None if finds is not None else image_size,
        crop_share=crop if 0 < crop <= 1 else 1.0,
        applies_exif=told.get("exif_rotation") is not False,
        greys=range_of_greys,
        channels=shape[1] if isinstance(shape[1], int) else 3,
    )


def _told(about: Mapping[str, str]) -> dict[str, Any]:
    """What an ONNX file says of itself, as far as it is JSON."""
    found: dict[str, Any] = {}
    for name, text in about.items():
        with suppress(ValueError):
            found[name] = plain_json(text)
    return found


def _one_by_one(opened: OnnxFile) -> Callable[[Tensor], Tensor]:
    """A file of a fixed batch is run on parts of so many, or on one image after the other."""
    fixed = opened.input_shape[0]
    if not isinstance(fixed, int):
        return opened.run
    if fixed == 1:
        return lambda images: torch.cat([opened.run(image[None]) for image in images])
    raise UserError(f"the ONNX file takes batches of {fixed} images only; export it with an open batch")
