"""StudentSpec -> Student: settings in, parts built after one dry forward.

The order is fixed: tap -> dry forward (shapes) -> connectors -> update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from understudy.core.networks import checked_network
from understudy.core.tap_shapes import TapShapes, num_outputs, shapes_of
from understudy.core.taps import TappedModel, check_taps
from understudy.distributed.world import SINGLE, World
from understudy.methods.base import OF_PLACES, Context, MethodConfig
from understudy.methods.combination import (
    check_num_classes,
    default_task_weight,
    refuse_without_streams,
    taps_of,
    weighted,
)
from understudy.optim import undecayed_names
from understudy.optim.ema import WeightAverage
from understudy.tasks import Detection, Task
from understudy.tasks.base import has_background, is_dense
from understudy.teachers import Teacher
from understudy.training.connector_weights import load_connectors
from understudy.training.heads import open_taught_heads_
from understudy.training.levels import refuse_levels_apart
from understudy.training.spec import StudentSpec
from understudy.training.student import Student, WeightedMethod, parameters_of
from understudy.utils.errors import UserError
from understudy.utils.hashing import hashed
from understudy.utils.seeding import seeded

__all__ = ["BuildContext", "build_student", "refuse_dense", "tap_teacher"]


@dataclass(frozen=True)
class BuildContext:
    """What a student is built into: the same for all rows of a seed."""

    task: Task
    num_classes: int
    sample: Tensor  # (B,3,H,W) images as the student sees them; only their shape and device matter
    teacher: Teacher | None = None
    teacher_sample: Tensor | None = None  # None: the teacher sees the same size
    train_labels: Tensor | None = None  # (N,)
    seed: int = 0
    world: World = SINGLE


def build_student(spec: StudentSpec, around: BuildContext) -> Student:
    """The student of a spec, its connectors sized from a dry forward.

    Raises:
        UserError: a tap that is not there, other outputs than there are classes, class counts that differ where the
            method reads teacher logits.
    """
    spec = replace(spec, model=checked_network(spec.model, role="student", trains=True))
    if any(module._compiled_call_impl is not None for module in spec.model.modules()):  # taps are not seen there
        raise UserError(
            f"student {spec.row_name} was compiled in place (compile()); hand over one that was not, and let "
            "StudentSpec(compile=True) compile it"
        )
    refuse_without_streams(spec.methods, spec.update.update.needs_streams, update=spec.update.name)
    for config in spec.methods:
        refuse_dense(config, around.task)
        _refuse_whole_images(config, around.task)
        with _in_the_name_of(config):
            check_taps(spec.model, taps_of(config).student, name=f"student {spec.row_name}")
    open_taught_heads_(spec.model, spec.methods, name=f"student {spec.row_name}")
    taps = [tap for config in spec.methods for tap in taps_of(config).student]
    model = TappedModel(spec.model, taps, prepare=spec.prepare, name=f"student {spec.row_name}")
    model = model.to(around.sample.device)
    methods = _build_methods(spec, model, around)
    named = parameters_of(model.module, [weighted.method for weighted in methods])
    world = around.world
    world.copy_from_first_(
        [*model.state_dict().values(), *(t for m in methods for t in m.method.state_dict().values())]
    )
    deployed = model.module
    for weighted_method in methods:
        deployed = weighted_method.method.deployed(deployed)
    return Student(
        spec.row_name,
        model,
        task=around.task,
        methods=methods,
        task_weight=default_task_weight(spec.methods) if spec.task_weight is None else spec.task_weight,
        update=spec.update.for_network(spec.model).build(named, undecayed=undecayed_names(spec.model)),
        schedule=spec.schedule,
        seed=hashed(around.seed, "student") if world.is_first else hashed(around.seed, "student", world.rank),
        average=None if spec.ema is None else WeightAverage(deployed, spec.ema),
        precision=spec.precision,
        accumulate=spec.accumulate,
        compile=spec.compile,
        world=world,
        image_shape=tuple(around.sample.shape[1:]),
    )


def tap_teacher(teacher: Teacher, methods: Sequence[MethodConfig]) -> None:
    """Let the teacher return what these methods look at."""
    for config in methods:
        with _in_the_name_of(config):
            teacher.check_taps(taps_of(config).teacher)
    teacher.tap(tap for config in methods for tap in taps_of(config).teacher)


@contextmanager
def _in_the_name_of(config: MethodConfig) -> Iterator[None]:
    """Let a tap that is not there be refused in the name of the method that wants it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"method {config.method.name!r}: {error}") from None


def _build_methods(spec: StudentSpec, model: TappedModel, around: BuildContext) -> list[WeightedMethod]:
    if not spec.methods:
        found = num_outputs(model, around.sample)
        if found is not None:
            _check_num_outputs(model, found, around)
        return []
    wanting = [config.method.name for config in spec.methods if config.method.needs_teacher(config)]
    if around.teacher is None and wanting:
        raise UserError(f"method {wanting[0]!r} needs a teacher")
    sample, teacher = around.sample, around.teacher
    teacher_sample = sample if around.teacher_sample is None else around.teacher_sample
    context = Context(
        student=shapes_of(model, sample),
        teacher=TapShapes({}, num_classes=around.num_classes) if teacher is None else teacher.shapes(teacher_sample),
        num_classes=around.num_classes,
        num_train=0 if around.train_labels is None else len(around.train_labels),
        train_labels=around.train_labels,
        generator=torch.Generator().manual_seed(hashed(around.seed, "method")),
    )
    _check_num_outputs(model, context.student.num_classes, around)
    for name, shapes in ((model.model_name, context.student), ("the teacher", context.teacher)):
        _check_output_shape(name, shapes, around.task)
    built = []
    for number, config in enumerate(spec.methods):
        _refuse_other_classes(config, context)
        _refuse_absent_rows(config, context, around)
        check_num_classes(config, around.num_classes, has_background=has_background(around.task))
        weight, warmup_epochs = weighted(config)
        for place, (name, factor) in enumerate(config.method.reads(config).items()):
            with seeded(hashed(around.seed, "connectors", number, *([name] if place else []))):
                method = config.method(config, context)
            if config.init_from is not None:
                load_connectors(method, config.init_from)
            if isinstance(around.task, Detection):
                refuse_levels_apart(method)
            method.to(sample.device)
            built.append(WeightedMethod(method, weight * factor, warmup_epochs, name))
    return built


def _check_num_outputs(model: TappedModel, found: int, around: BuildContext) -> None:
    if found != around.num_classes:
        raise UserError(
            f"{model.model_name} gives {found} logits, but there are {around.num_classes} classes; build it "
            f"with {around.num_classes} outputs (timm and torchvision: num_classes={around.num_classes})"
        )


def _check_output_shape(name: str, shapes: TapShapes, task: Task) -> None:
    """Refuse maps of logits where an image has one prediction, and the other way round."""
    found = shapes.outputs.get("logits")
    if found is None or (found.height is not None) == is_dense(task):
        return
    wanted = "(B,C,H,W)" if is_dense(task) else "(B,C)"
    way_out = (
        "over a classifier's backbone: deeplabv3:NAME, psp:NAME or fpn:NAME"
        if is_dense(task)
        else "a segmenter learns from masks (data with images/ and masks/, or data.root: images=FOLDER,masks=FOLDER)"
    )
    raise UserError(f"{name} must return {wanted} logits, got shape (2, {str(found).replace('x', ', ')}); {way_out}")


def refuse_dense(config: MethodConfig, task: Task) -> None:
    """Refuse a method that wants the logits of an image beside its features, where predictions are its parts.

    Raises:
        UserError: naming the method, and what to take instead.
    """
    method = config.method
    if not is_dense(task) or not method.has_taps(config):
        return
    taps = method.taps_for(config)
    wants = method.needs_for(config) - OF_PLACES
    if wants or "embedding" in (*taps.student, *taps.teacher):
        without = "set method.embedding=false, or " if getattr(config, "embedding", False) else ""
        if hasattr(config, "spatial"):  # it takes maps, too
            without = (
                "set method.student_tap and method.teacher_tap to maps (head, stages.1) and method.kl_weight=0, or "
            )
        raise UserError(
            f"method {method.name!r} compares whole images, one embedding or one prediction each, and here every "
            f"image has many predictions; {without}take a method on logits (kd, dkd, dist) or on maps (cwd, at, fitnet)"
        )


def _refuse_whole_images(config: MethodConfig, task: Task) -> None:
    """Refuse a method that wants to know what is where in an image, where nobody says so."""
    method = config.method
    if not is_dense(task) and (wants := method.needs_for(config) & OF_PLACES):
        known = {"label_map": "the class of each pixel (segmentation)", "object_masks": "where objects are (detection)"}
        raise UserError(
            f"method {method.name!r} needs {' and '.join(known[want] for want in sorted(wants))}, and here an image "
            "has one label; take a method on stages (fitnet, at, reviewkd) or on logits (kd, dkd, dist)"
        )


def _refuse_absent_rows(config: MethodConfig, context: Context, around: BuildContext) -> None:
    """Refuse rows that a method names and that these networks do not give, where the task can tell beforehand."""
    names = getattr(around.task, "pairing_names", None)
    if names is None or config.on is None:
        return
    known = names(context.student.outputs, None if around.teacher is None else context.teacher.outputs)
    absent = [name for name in config.on if name not in known]
    if absent:
        raise UserError(
            f"method {config.method.name!r}: on names {', '.join(absent)}, and these networks and this task have "
            f"{', '.join(known)}; both sides must give what is compared"
        )


def _refuse_other_classes(config: MethodConfig, context: Context) -> None:
    ours, theirs = context.student.num_classes, context.teacher.num_classes
    if "teacher_logits" in config.method.needs_for(config) and ours != theirs:
        raise UserError(
            f"method {config.method.name!r} reads the teacher's logits, but the teacher has {theirs} classes and the "
            f"student {ours}; take a feature method, or fine-tune the teacher on this data (--train-teacher), or name "
            "its class for each of the data's (teacher.classes=FILE)"
        )
