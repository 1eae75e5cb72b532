"""`understudy export`: the student of a run as files to deploy, each scored and timed beside torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.core.batch import Batch
from understudy.core.image_size import ImageSize, height_and_width, size_of, size_text
from understudy.core.outputs import LogitsAlone
from understudy.data import eval_loader
from understudy.data.sources.base import rows_of
from understudy.data.sources.grey_range import spread
from understudy.models import Network
from understudy.models.cost import Cost, count_macs, count_parameters
from understudy.models.detectors.deployed import FoundBoxes
from understudy.models.export import Format, Runner, Subject, Written, at_rest, write
from understudy.models.export.latency import BATCH_SIZES, Latency, latency, thread_counts
from understudy.models.hub import first_line
from understudy.recipes.schema import Recipe
from understudy.runs.evaluate import Images, images_of
from understudy.runs.export_boxes import box_predictors, box_source, box_subject, canvas_batches, check_canvas
from understudy.runs.export_report import ExportReport, Measured
from understudy.runs.folder import RunFolder
from understudy.runs.reopen import image_sizes, recipe_of, results_of, student_network_of, teacher_of
from understudy.tasks import TASKS
from understudy.tasks.base import headline_metric
from understudy.tasks.segmentation_settings import SegmentationConfig
from understudy.utils.errors import UserError

__all__ = ["BoxForm", "Wanted", "check_wanted", "export"]

CALIBRATION_IMAGES = 256  # of the training images, evenly spread
CALIBRATION_BATCH = 32


@dataclass(frozen=True)
class BoxForm:
    """What is asked for of a detector's files.

    Attributes:
        size: of the images that they take; None: what holds every image that is evaluated.
        raw: all boxes and their scores by class, without non-maximum suppression.
    """

    size: ImageSize | None = None
    raw: bool = False

    def check(self, task: str) -> None:
        """Refuse it of other students, and sizes that a pyramid cannot have.

        Raises:
            UserError: naming what is wrong.
        """
        if task != "detection" and (self.raw or self.size is not None):
            raise UserError(f"{'--raw' if self.raw else '--image-size'} is of detectors' files; leave it out")
        check_canvas(self.size)


@dataclass(frozen=True)
class Wanted:
    """A file that is asked for."""

    format: Format
    file: Path


def export(
    run: RunFolder,
    wanted: Sequence[Wanted],
    *,
    allow_code: bool,
    data: str | None = None,
    most_images: int | None = None,
    module: nn.Module | None = None,
    boxes: BoxForm | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Write the run's student into files.

    Args:
        run: a finished run.
        wanted: at least one file.
        allow_code: let the run name a factory in somebody's own code.
        data: images to score and calibrate on, in place of the run's own; see `evaluate`.
        most_images: validation images to score on, evenly spread; 0: none; None: all.
        module: as in `student_network_of`.
        boxes: what is asked for of a detector's files.
        say: is told of each file as it is there.

    Raises:
        UserError: none is asked for, packages are missing, there is nothing to calibrate on; or a file could not be
            written, after all others are.
    """
    check_wanted(wanted)
    boxes = boxes or BoxForm()
    boxes.check(recipe_of(run).task)
    network = student_network_of(run, allow_code=allow_code, module=module)
    size, teacher_size = image_sizes(run)
    images, problem = _images(run, data)
    needs_calibration = any(one.format.name == "int8" for one in wanted)
    if needs_calibration and images is None:
        raise UserError(f"--int8 needs images to calibrate on: {problem}")
    subject = _subject(network, size, recipe_of(run), images, boxes, calibrates=needs_calibration)
    written, failed = _written(subject, wanted, say)
    scores: Mapping[str, float] = {}
    of_what = f"not scored: {problem}" if images is None else ""
    if images is not None and most_images != 0:
        try:
            scores, of_what = _scores(subject, written, images, most_images)
        except UserError as error:  # the files are there, whatever is wrong with the images
            of_what = f"not scored: {error}"
    teacher = teacher_of(run, allow_code=allow_code)
    return ExportReport(
        image_size=subject.image_size,
        outputs=subject.outputs,
        is_single=subject.is_single,
        channels=subject.channels,
        about=tuple(subject.about),
        written=tuple(written),
        rows=tuple(_rows(subject, written, scores, run)),
        teacher=None if teacher is None else _teacher(teacher, subject, teacher_size),
        student=Cost(count_parameters(subject.model), count_macs(subject.model, subject.image_size), 0.0),
        scored_on=of_what,
        metric=results_of(run).metric,
        failed=tuple(failed),
    )


def _written(subject: Subject, wanted: Sequence[Wanted], say: Callable[[str], None]) -> tuple[list[Written], list[str]]:
    """The files, and what went wrong with others; refused where there is none."""
    written, failed = [], []
    for one in wanted:
        try:
            written.append(write(subject, one.file, one.format))
            say(f"{one.file}   written")
        except UserError as error:
            failed.append(str(error))
    if not written:
        raise UserError("\n".join(failed))
    return written, failed


def _subject(
    network: Network, size: ImageSize, recipe: Recipe, images: Images | None, boxes: BoxForm, *, calibrates: bool
) -> Subject:
    """What is written: a segmenter gives its map of logits alone, for images of any size; a detector its boxes."""
    is_dense = recipe.task != "classification"
    about = _about(network, None if is_dense else size, recipe)
    if recipe.task == "detection":
        return box_subject(network, recipe, images, about, asked=boxes.size, raw=boxes.raw, calibrates=calibrates)
    model = (LogitsAlone(network.prepared) if is_dense else network.prepared).eval()
    calibration = _calibration(images) if images is not None and calibrates else []
    return Subject(model, size, about, calibration, takes_any_size=is_dense)


def check_wanted(wanted: Sequence[Wanted]) -> None:
    """Refuse what can be known to fail before a run is opened.

    Raises:
        UserError: none is asked for, packages are missing, two have one name, or a folder's name is given for a file.
    """
    if not wanted:
        raise UserError(
            "Missing option '--onnx' FILE, or --int8, --pt2, --torchscript FILE, --openvino FOLDER: "
            "what is to be written?"
        )
    files = [one.file.absolute() for one in wanted]
    for one in wanted:
        one.format.check_installed()
        if files.count(one.file.absolute()) > 1:
            raise UserError(f"{one.file} is named for two formats; give each a file of its own")
        if one.file.is_dir() and one.format.name != "openvino":
            raise UserError(f"{one.file} is a folder; name a file, such as {one.file / f'student.{one.format.name}'}")


def _images(run: RunFolder, data: str | None) -> tuple[Images | None, str]:
    """The images to score on, else the reason why there are none."""
    try:
        return images_of(run, data), ""
    except UserError as error:
        if data is not None:
            raise
        return None, str(error)


def _about(network: Network, size: ImageSize | None, recipe: Recipe) -> dict[str, str]:
    """What a file says of its student, so that nothing else is needed to use it."""
    channels = network.prepare.channels
    colours = "RGB " if channels == 3 else ""
    told: dict[str, object] = {
        "classes": None if network.classes is None else list(network.classes),
        "size": None if size is None else list(height_and_width(size)),
        "shorter_side": recipe.data.shorter_side,
        "mean": network.mean,
        "std": network.std,
        "crop": network.prepare.crop_share,
        "exif_rotation": recipe.data.exif_rotation,
    }
    if recipe.data.grey_range != "auto":
        told["grey_range"] = list(recipe.data.grey_range)
    if recipe.task == "segmentation" and recipe.segmentation != SegmentationConfig():
        told["segmentation"] = recipe.segmentation.model_dump(mode="json", exclude_defaults=True)
    words = f"images (B,{channels},H,W), {colours}in [0,1]: scaled to cover size / crop, the centre of size cut out"
    if size is None:
        words = f"images (B,{channels},H,W), {colours}in [0,1], of any size; logits (B,C,h,w) are enlarged to them"
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in told.items() if value is not None}
    return {**texts, "input": f"{words}; mean and std are applied inside", "model": network.name}


def _calibration(images: Images) -> list[Tensor]:
    """Batches of training images as they are evaluated."""
    source = images.splits["train"]
    some = rows_of(source, torch.tensor(spread(len(source), CALIBRATION_IMAGES)))
    loader = eval_loader(some, images.recipe.data, image_size=images.image_size)
    return [part for batch in loader for part in torch.split(batch.images.cpu(), CALIBRATION_BATCH)]


def _scores(
    subject: Subject, written: Sequence[Written], images: Images, most_images: int | None
) -> tuple[Mapping[str, float], str]:
    """By the headline metric: of torch and of every file, on the same validation images; and which these are."""
    runners: dict[str, Runner] = {"torch": subject.model}
    runners |= {one.format.name: one.format.opened(one.file, torch.get_num_threads()) for one in written}
    has_boxes = images.recipe.task == "detection"
    predictors: Mapping[str, Any] = {name: partial(_predicted, run, name) for name, run in runners.items()}
    if has_boxes:
        predictors = box_predictors(subject, runners)
    task = TASKS[images.recipe.task].for_data(images.num_classes, **images.recipe.task_settings)
    batches = images.loaders("val")
    all_images = box_source(images)
    if most_images is not None and most_images < len(all_images):
        some = rows_of(all_images, torch.tensor(spread(len(all_images), most_images)))
        all_images = some
        batches = [eval_loader(some, images.recipe.data, image_size=images.image_size)]
    if has_boxes:
        batches = [canvas_batches(all_images, images.recipe, height_and_width(subject.image_size))]
    with at_rest(subject.model):
        found = task.evaluate(predictors, (batch for loader in batches for batch in loader), torch.device("cpu"))
    metric = headline_metric(task).name
    num_images = len(found["torch"].per_item)
    return {
        name: one.scores[metric] for name, one in found.items()
    }, f"{images.which} ({num_images:,} image{'s' * (num_images != 1)})"


def _predicted(run: Runner, name: str, batch: Batch) -> Any:
    try:
        return run(batch.images)
    except UserError:
        raise
    except Exception as error:  # of another library, anything: the file may be for images of other sizes
        if name == "torch":
            raise
        size = size_text(size_of(batch.images.shape))
        raise UserError(f"--{name}: the file cannot run images of {size} pixels ({first_line(error)})") from error


def _rows(subject: Subject, written: Sequence[Written], scores: Mapping[str, float], run: RunFolder) -> list[Measured]:
    """Size, score and latencies: of torch, then of every file."""
    with at_rest(subject.model):
        weights = (run.student / "model.safetensors").stat().st_size
        rows = [Measured("torch", weights, scores.get("torch"), _latencies(subject, lambda _: subject.model))]
        for one in written:
            opened = partial(one.format.opened, one.file)
            score = scores.get(one.format.name)
            rows.append(Measured(one.file.name, one.num_bytes, score, _latencies(subject, opened)))
    return rows


def _latencies(subject: Subject, opened: Callable[[int], Runner]) -> dict[tuple[int, int], Latency]:
    """By threads and batch size."""
    found = {}
    for threads in thread_counts():
        run = opened(threads)
        for batch_size in BATCH_SIZES[:1] if subject.is_single else BATCH_SIZES:
            images = subject.timed_on(batch_size)
            found[threads, batch_size] = latency(partial(run, images), threads=threads)
    return found


def _teacher(teacher: nn.Module, subject: Subject, size: ImageSize) -> Cost:
    if subject.outputs != ("logits",):  # a detector, as a whole like its student
        teacher, size = FoundBoxes(teacher).eval(), subject.image_size
    images = subject.timed_on(1) if subject.trials else Subject(teacher, size).images(1)
    with at_rest(teacher):
        taken = latency(lambda: teacher(images), threads=1)
        return Cost(count_parameters(teacher), count_macs(teacher, size), taken.p50)
