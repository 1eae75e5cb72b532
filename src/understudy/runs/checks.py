"""Checks before training starts: rows, data and processes that could not work together are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from understudy.core.compile import compile_cache
from understudy.core.image_size import has_shape_of, height_and_width, size_of, size_text
from understudy.data import DataConfig, Share
from understudy.data.augment.copies import refuse_to_turn
from understudy.data.loaders.plan import num_steps
from understudy.methods import MethodConfig
from understudy.methods.combination import check_num_classes
from understudy.models import Network
from understudy.models.class_names import class_names
from understudy.models.weight_files import split_weights
from understudy.recipes.comparison import Variant
from understudy.runs.bank.of_boxes import refuse_asking_rows
from understudy.runs.components import Components
from understudy.tasks import Detection, DetectorLike
from understudy.tasks.base import has_background, is_dense
from understudy.training.build import refuse_dense
from understudy.training.loss import is_on_local_rows
from understudy.training.trial_pass import USUAL_IMAGES, training_problem
from understudy.utils.errors import UserError
from understudy.utils.text import listed, plural
from understudy.utils.untrusted import visible

__all__ = ["check_rows", "compile_notes", "length_notes", "size_notes"]

SHOWN = 5  # classes in a message
COPIES = {"none": 1, "pairs": 2, "rotations": 4}


def check_rows(components: Components, rows: Sequence[Variant]) -> None:
    """Refuse before training what could not work: class counts, too few classes or rows, missing taps.

    Raises:
        UserError: naming the method, or the network, and the way out.
    """
    config = components.recipe.data
    _check_are_detectors(components)
    if components.recipe.bank is not None:
        refuse_asking_rows(components, rows)
    _check_order_of_classes(components)
    if config.copies == "rotations":
        refuse_to_turn(components.image_size)
    _check_further_teachers(components, rows)
    for method in (method for row in rows for method in row.method):
        name = method.method.name
        check_num_classes(method, len(components.data.classes), has_background=has_background(components.task))
        refuse_dense(method, components.task)
        _check_needs(method, config)
        if method.group_size is not None and config.copies != "none":
            raise UserError(
                f"method {name!r}: groups of rows would tear the copies of an image apart; leave out method.group_size "
                "(rows: local then relates the rows of each process), or set data.copies: none"
            )
        _check_fewest_rows(components, method)
    _check_smallest_pass(components)


def _check_fewest_rows(components: Components, method: MethodConfig) -> None:
    """Refuse batches of fewer images than a method is defined on; of dense tasks an image has many rows of logits."""
    if is_dense(components.task) and not method.method.has_taps(method):
        return
    needed, smallest = method.method.min_rows(method), _fewest_rows(components, is_local=is_on_local_rows(method))
    if smallest < needed:
        raise UserError(
            f"method {method.method.name!r} needs at least {needed} images in every batch, but the smallest one here "
            f"has {smallest} ({_divided(components)}); set data.drop_last=true or another data.batch_size"
        )


def _check_are_detectors(components: Components) -> None:
    """Refuse networks that find no boxes, where boxes are learnt, and those that do, where there are none."""
    recipe = components.recipe
    if not isinstance(components.task, Detection):
        _refuse_detectors(components)
        return
    if recipe.teacher is not None and recipe.teacher.also:
        raise UserError("teacher.also: a detector learns from one teacher; leave it out")
    for role, network in (("student", components.student_network), ("teacher", components.teacher_network)):
        if network is not None and not isinstance(network.module, DetectorLike):
            raise UserError(
                f"{role} {network.name} is no detector; take fasterrcnn:BACKBONE, retinanet:BACKBONE or "
                "fcos:BACKBONE over a network of timm's, or torchvision:NAME of one of its detectors"
            )
    columns = getattr(components.student_network.module, "columns", ())
    if columns and columns != tuple(range(columns[0], columns[0] + len(columns))):
        raise UserError(
            f"student {recipe.student.model} keeps the columns of its published weights, of which some belong to no "
            "class, and a student's folder cannot tell which; set student.weights=none, or take another student (as a "
            "teacher it is welcome)"
        )


def _refuse_detectors(components: Components) -> None:
    for role, network in (("student", components.student_network), ("teacher", components.teacher_network)):
        if network is not None and isinstance(network.module, DetectorLike):
            has, instead = {
                "segmentation": ("masks", "deeplabv3:BACKBONE, psp:BACKBONE or fpn:BACKBONE"),
            }.get(components.recipe.task, ("one class an image", "timm:NAME or torchvision:NAME of a classifier"))
            raise UserError(
                f"{role} {network.name} is a detector, and {components.data.name} has {has}; take {instead}, or data "
                "with boxes (COCO's json, VOC's xml, a data.yaml of YOLO's)"
            )


def _check_order_of_classes(components: Components) -> None:
    """Refuse a teacher whose folder names the data's classes in another order: it would teach each as another."""
    teacher, ours = components.recipe.teacher, [visible(name) for name in components.data.classes]
    if teacher is None or components.teacher_network is None or teacher.classes is not None or teacher.train_epochs:
        return
    if teacher.weights in (None, "none", "pretrained"):
        return
    names = class_names(teacher.model, split_weights(teacher.weights)[0])
    theirs = [visible(name) for name, *_ in names or ()]
    if theirs != ours and sorted(theirs) == sorted(ours):
        way_out = (
            "set teacher.classes=names"
            if components.recipe.task == "classification"
            else "number the data's classes as it does, or train it further on these (--train-teacher N)"
        )
        raise UserError(
            f"teacher.weights: {teacher.weights} has the data's classes in another order ({listed(theirs, SHOWN)}; here"
            f" {listed(ours, SHOWN)}), and would teach each as another; {way_out}"
        )


def _check_further_teachers(components: Components, rows: Sequence[Variant]) -> None:
    """Refuse a teacher whom no method of any row listens to, where there are several."""
    teacher = components.recipe.teacher
    if teacher is not None and teacher.also and is_dense(components.task):
        raise UserError("teacher.also: heads with teachers of their own are a classifier's; leave it out")
    read = {name for row in rows for method in row.method for name in method.method.reads(method)}
    unheard = [] if teacher is None else [head for head in teacher.also if head not in read]
    if unheard:
        raise UserError(
            f"teacher.also: no method teaches the head {unheard[0]!r}; name it in method.on, such as "
            f"{{distilled: 1, {unheard[0]}: 1}}, or leave that teacher out (teacher.also.{unheard[0]}=null)"
        )
    if teacher is not None and teacher.also and read <= {*teacher.also}:
        raise UserError(
            f"teacher.model: nobody learns from {teacher.model}, since every head that methods name has a teacher of "
            f"its own in teacher.also ({', '.join(teacher.also)}); give one of these as teacher.model, and not there"
        )


def size_notes(components: Components) -> list[str]:
    """What to say of image sizes that work and are hardly meant."""
    notes = []
    network = components.student_network
    size = network.prepare.size or components.image_size
    if not has_shape_of(size, height_and_width(components.image_size)):
        notes.append(
            f"note     {network.name} works at {size_text(size)} px and sees the centre alone of images of "
            f"{size_text(components.image_size)} px: set data.image_size=[HEIGHT, WIDTH] to build it for their shape"
        )
    patch = _patch_of(network)
    rest = 0 if patch is None else max(side % own for side, own in zip(height_and_width(size), patch, strict=True))
    if patch is not None and rest:
        notes.append(
            f"note     {network.name} cuts patches of {size_text(size_of(patch))} px, which do not fill "
            f"{size_text(size)} px: {rest} px at the border are not seen; set data.image_size to a multiple"
        )
    stages = getattr(network.module, "feature_info", None) or [{}]
    reduction = stages[-1].get("reduction") if isinstance(stages, list) else None
    if isinstance(reduction, int) and reduction > min(height_and_width(size)):
        notes.append(
            f"note     {network.name} halves its images down to 1/{reduction} of their side, and nothing is left of "
            f"{size_text(size)} px to tell apart by then: raise data.image_size, or take a student for small "
            "images (cifar:...)"
        )
    return notes


def _patch_of(network: Network) -> tuple[int, int] | None:
    """Height and width of a vision transformer's patches, of timm's."""
    embedding = getattr(network.module, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    if isinstance(patch, tuple) and len(patch) == 2 and not getattr(embedding, "dynamic_img_pad", False):
        return patch
    return None


def length_notes(components: Components, rows: Sequence[Variant]) -> list[str]:
    """What to say of rows whose update needs a longer run than this one."""
    recipe = components.recipe
    steps = recipe.steps or recipe.epochs * num_steps(len(components.data.train), recipe.data)
    notes: dict[str, list[str]] = {}
    for row in rows:
        if (note := row.update.length_note(steps)) is not None:
            notes.setdefault(note, []).append(row.name)
    return [f"note     {', '.join(names)}: {note}" for note, names in notes.items()]


def compile_notes(components: Components) -> list[str]:
    """What to say before networks are compiled: how long that takes, and where it is kept."""
    recipe = components.recipe
    if not recipe.compile:
        return []
    return [
        f"note     compile: {str(recipe.compile).lower()} compiles student and teacher in the first steps, seconds to "
        f"minutes the first time; what was compiled before is read from {compile_cache()}"
    ]


def _check_smallest_pass(components: Components) -> None:
    """Refuse a network that cannot be trained on the smallest pass, as batch norms on one value of each channel."""
    recipe, smallest = components.recipe, _fewest_rows(components, is_local=True)
    images, usual = (count * COPIES[recipe.data.copies] for count in (smallest, USUAL_IMAGES))
    if images >= USUAL_IMAGES:
        return
    around = components.build_context(recipe.seeds[0])
    trained = [("student", components.student_network, around.sample)]
    if recipe.teacher is not None and recipe.teacher.train_epochs and components.teacher_network is not None:
        trained.append(("teacher", components.teacher_network, cast(Tensor, around.teacher_sample)))
    for role, network, sample in trained:
        problem = _problem(network, images, sample)
        if problem is not None and _problem(network, usual, sample) is None:
            few = plural(images, "image")
            raise UserError(
                f"{role} {network.name} cannot be trained on a batch of {few} ({problem}), and the smallest one "
                f"here has no more ({_divided(components)}); set data.drop_last=true or another data.batch_size"
            )


def _problem(network: Network, num_images: int, sample: Tensor) -> str | None:
    if any(isinstance(part, nn.SyncBatchNorm) for part in network.module.modules()):
        return None  # it sees the rows of all processes
    device = next((tensor.device for tensor in network.module.parameters()), torch.device("cpu"))
    images = torch.zeros(num_images, *sample.shape[1:], device=device)
    return training_problem(network.prepared.to(device), images)


def _fewest_rows(components: Components, *, is_local: bool) -> int:
    """Images in the smallest pass of any step: of one process, or of all together."""
    config, num_train, world = components.recipe.data, len(components.data.train), components.world
    last = 0 if config.drop_last else num_train % config.batch_size
    step = range(last if last >= world.size else min(config.batch_size, num_train))  # fewer are left out
    shares = [len(Share(rank, world.size).of(step)) for rank in range(world.size)]
    passes = max(1, min(components.recipe.accumulate, *shares))
    return min(shares) // passes if is_local else sum(share // passes for share in shares)


def _divided(components: Components) -> str:
    recipe, size = components.recipe, components.world.size
    words = [plural(len(components.data.train), "image"), f"data.batch_size {recipe.data.batch_size}"]
    words += [f"{size} processes"] if size > 1 else []
    words += [f"accumulate {recipe.accumulate}"] if recipe.accumulate > 1 else []
    return ", ".join(words)


def _check_needs(method: MethodConfig, config: DataConfig) -> None:
    """Refuse data that lack what the method reads."""
    name, needs = method.method.name, method.method.needs_for(method)
    if "copies" in needs and config.copies != "rotations":
        raise UserError(f"method {name!r} compares rotated copies of each image; set data.copies=rotations")
    if "pairs" in needs and config.copies != "pairs":
        raise UserError(
            f"method {name!r} compares two views of each image; set data.copies=pairs, and data.second_augment to what "
            "makes the second one strong, such as {name: crop_flip, rand_augment: rand-m10-n2-p1-mstd101}"
        )
    if "indices" in needs and config.streaming:
        raise UserError(
            f"method {name!r} remembers samples by their number, which streamed ones do not have; leave out "
            "data.streaming"
        )
    if "indices" in needs and config.repeats > 1:
        raise UserError(
            f"method {name!r} remembers samples by their number, and data.repeats shows one several times in a batch; "
            "leave out data.repeats"
        )
    if "hard_labels" in needs and config.mix is not None:
        raise UserError(
            f"method {name!r} needs one class for each image, and data.mix mixes labels; leave out data.mix"
        )
    if "hard_labels" in needs and config.unlabelled is not None:
        raise UserError(
            f"method {name!r} needs a label for each image, and those of data.unlabelled have none; leave it out"
        )
