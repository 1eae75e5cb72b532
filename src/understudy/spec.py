"""StudentSpec -> Student: settings in, parts built after one dry forward.

The order is fixed: tap -> dry forward (shapes) -> connectors -> update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor, nn

from understudy.averaging import Averaging, WeightAverage
from understudy.compiling import Compile
from understudy.config import UserError, shortened_repr
from understudy.connections import load_connectors
from understudy.distributed import SINGLE, World
from understudy.hashing import hashed
from understudy.methods.base import Context, MethodConfig, TapShapes
from understudy.networks import checked_network, copied
from understudy.precision import Precision
from understudy.random_state import seeded
from understudy.student import Student, WeightedMethod, parameters_of
from understudy.taps import TappedModel, Taps, check_taps
from understudy.tasks import Task
from understudy.teachers import LiveTeacher
from understudy.teachers.bank import BankTeacher
from understudy.updates import Joint, Schedule, UpdateConfig, row_suffix, undecayed_names

__all__ = ["StudentSpec", "Surroundings", "build_student", "default_task_weight", "tap_teacher"]


@dataclass(frozen=True)
class StudentSpec:
    """One student to be: a network, what is distilled into it, and how it is moved.

    Args:
        model: any network; it is trained itself, not a copy.
        method: settings of one method or of several; none trains it alone.
        update: how losses become new weights.
        schedule: learning rate over the epochs.
        task_weight: None: the first method's default, 1 without a method.
        name: None: the methods' names, with "+dot" for that update, and so on.
        prepare: the network's own first operation on images in [0,1]; None: it takes them as they are.
        ema: settings of a running average of the weights, which is then what is evaluated and deployed.
        precision: of the networks' passes.
        accumulate: passes a step; each takes a part of the batch.
        compile: whether torch.compile makes the network faster; "reduce-overhead" is its mode with CUDA graphs.

    Raises:
        UserError: a setting of another kind (all of them named), or accumulation that would tear copies apart.
    """

    model: nn.Module
    method: MethodConfig | Sequence[MethodConfig] = ()
    update: UpdateConfig = field(default_factory=Joint.Config)
    schedule: Schedule = field(default_factory=Schedule)
    task_weight: float | None = None
    name: str | None = None
    prepare: nn.Module | None = None
    ema: Averaging | None = None
    precision: Precision = "float32"
    accumulate: int = 1
    compile: Compile = False

    def __post_init__(self) -> None:
        wrong = _wrong_settings(self)
        if wrong:
            raise UserError("\n".join(["StudentSpec:", *(f"  {line}" for line in wrong)]))

    @property
    def methods(self) -> tuple[MethodConfig, ...]:
        """The settings of all methods."""
        return (self.method,) if isinstance(self.method, MethodConfig) else tuple(self.method)

    @property
    def row_name(self) -> str:
        """Its name in logs and tables."""
        return self.name or row_name_of(self.methods, row_suffix(self.update, distils=bool(self.methods)))


def _wrong_settings(spec: StudentSpec) -> list[str]:
    """A line for each setting that is not what it should be."""
    methods = [spec.method] if isinstance(spec.method, MethodConfig | str) else spec.method
    weight, passes = spec.task_weight, spec.accumulate
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight)
    is_count = isinstance(passes, int) and not isinstance(passes, bool) and passes >= 1
    wanted = [
        ("model", isinstance(spec.model, nn.Module), "a torch.nn.Module"),
        (
            "method",
            isinstance(methods, Sequence) and all(isinstance(config, MethodConfig) for config in methods),
            "settings such as understudy.methods.KD.Config(), or several of these",
        ),
        ("update", isinstance(spec.update, UpdateConfig), "understudy.Joint.Config(...) or understudy.DOT.Config(...)"),
        ("schedule", isinstance(spec.schedule, Schedule), "an understudy.Schedule"),
        ("task_weight", weight is None or (is_number and weight >= 0), "a number from 0 on, or None"),
        ("name", spec.name is None or (isinstance(spec.name, str) and spec.name != ""), "a text, or None"),
        ("prepare", spec.prepare is None or isinstance(spec.prepare, nn.Module), "a torch.nn.Module, or None"),
        ("ema", spec.ema is None or isinstance(spec.ema, Averaging), "understudy.averaging.Averaging(decay=...)"),
        ("precision", spec.precision in get_args(Precision), f"one of {', '.join(get_args(Precision))}"),
        ("accumulate", is_count, "a whole number from 1 on"),
        ("compile", spec.compile in get_args(Compile), "True, False or 'reduce-overhead'"),
    ]
    wrong = [
        f"{name} must be {what}, got {shortened_repr(getattr(spec, name))}"
        for name, is_right, what in wanted
        if not is_right
    ]
    if not wrong and passes > 1:
        copying = [config.method.name for config in spec.methods if "copies" in config.method.needs_for(config)]
        wrong += [
            f"accumulate {passes} would tear the copies of an image apart, which {name} compares" for name in copying
        ]
    return wrong


@dataclass(frozen=True)
class Surroundings:
    """What a student is built into: the same for all rows of a seed."""

    task: Task
    num_classes: int
    sample: Tensor  # (B,3,H,W) images as the student sees them; only their shape and device matter
    teacher: LiveTeacher | BankTeacher | None = None
    teacher_sample: Tensor | None = None  # None: the teacher sees the same size
    train_labels: Tensor | None = None  # (N,)
    seed: int = 0
    world: World = SINGLE


def build_student(spec: StudentSpec, around: Surroundings) -> Student:
    """The student of a spec, its connectors sized from a dry forward.

    Raises:
        UserError: a tap that is not there, other outputs than there are classes, class counts that differ where the
            method reads teacher logits.
    """
    checked_network(spec.model, role="student", trains=True)
    for config in spec.methods:
        _check_taps(spec.model, taps_of(config).student, config, f"student {spec.row_name}")
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
        update=spec.update.build(named, undecayed=undecayed_names(spec.model)),
        schedule=spec.schedule,
        seed=hashed(around.seed, "student") if world.is_first else hashed(around.seed, "student", world.rank),
        average=None if spec.ema is None else WeightAverage(deployed, spec.ema),
        precision=spec.precision,
        accumulate=spec.accumulate,
        compiles=spec.compile,
        world=world,
        image_shape=tuple(around.sample.shape[1:]),
    )


def tap_teacher(teacher: LiveTeacher | BankTeacher, methods: Sequence[MethodConfig]) -> None:
    """Let the teacher return what these methods look at."""
    for config in methods:
        _check_taps(teacher, taps_of(config).teacher, config, teacher.name)
    teacher.tap(tap for config in methods for tap in taps_of(config).teacher)


def _check_taps(
    model: nn.Module | LiveTeacher | BankTeacher, taps: Sequence[str], config: MethodConfig, name: str
) -> None:
    """Refuse a tap that is not there in the name of the method that wants it."""
    try:
        if isinstance(model, BankTeacher):
            model.check_taps(taps)
        else:
            check_taps(model.model.module if isinstance(model, LiveTeacher) else model, taps, name=name)
    except UserError as error:
        raise UserError(f"method {config.method.name!r}: {error}") from None


def check_num_classes(config: MethodConfig, num_classes: int) -> None:
    """Refuse a method that is not defined on so few classes."""
    needed = config.method.min_classes
    if num_classes < needed:
        raise UserError(
            f"method {config.method.name!r} needs at least {needed} classes, but the data has {num_classes}; "
            "take kd or dist, or tfkd without a teacher"
        )


def taps_of(config: MethodConfig) -> Taps:
    """Where a method under these settings looks."""
    return config.method.taps_for(config)


def default_task_weight(methods: Sequence[MethodConfig]) -> float:
    """The first method's, or 1 for a student alone."""
    return methods[0].method.default_loss_for(methods[0]).task if methods else 1.0


def row_name_of(methods: Sequence[MethodConfig], suffix: str) -> str:
    """'alone', 'kd', 'crd+kd', 'kd+dot'; the suffix is the update's."""
    return "+".join([config.method.name for config in methods] or ["alone"]) + suffix


def weighted(config: MethodConfig) -> tuple[float, int]:
    """Weight and warm-up epochs of a method: the settings' own, else the method's default."""
    default = config.method.default_loss_for(config)
    weight = default.distill if config.weight is None else config.weight
    return weight, default.warmup_epochs if config.warmup_epochs is None else config.warmup_epochs


def _build_methods(spec: StudentSpec, model: TappedModel, around: Surroundings) -> list[WeightedMethod]:
    if not spec.methods:
        output, _ = model.dry_forward(around.sample[:2])
        if isinstance(output, Tensor) and output.ndim == 2:
            _check_num_outputs(model, output.shape[1], around)
        return []
    wanting = [config.method.name for config in spec.methods if config.method.needs_teacher(config)]
    if around.teacher is None and wanting:
        raise UserError(f"method {wanting[0]!r} needs a teacher")
    sample, teacher = around.sample, around.teacher
    teacher_sample = sample if around.teacher_sample is None else around.teacher_sample
    context = Context(
        student=_shapes(model, sample),
        teacher=TapShapes({}, num_classes=around.num_classes)
        if teacher is None
        else _teacher_shapes(teacher, teacher_sample),
        num_classes=around.num_classes,
        num_train=0 if around.train_labels is None else len(around.train_labels),
        train_labels=around.train_labels,
        generator=torch.Generator().manual_seed(hashed(around.seed, "method")),
    )
    _check_num_outputs(model, context.student.num_classes, around)
    built = []
    for number, config in enumerate(spec.methods):
        _refuse_other_classes(config, context)
        check_num_classes(config, around.num_classes)
        with seeded(hashed(around.seed, "connectors", number)):
            method = config.method(config, context)
        if config.init_from is not None:
            load_connectors(method, config.init_from)
        method.to(sample.device)
        built.append(WeightedMethod(method, *weighted(config)))
    return built


def _teacher_shapes(teacher: LiveTeacher | BankTeacher, sample: Tensor) -> TapShapes:
    if isinstance(teacher, LiveTeacher):
        return _shapes(teacher.model, sample)
    return TapShapes(
        teacher.shapes, num_classes=teacher.num_classes, classifier=teacher.classifier, norms=teacher.norms
    )


def _shapes(model: TappedModel, sample: Tensor) -> TapShapes:
    output, shapes = model.dry_forward(sample[:2])
    if not isinstance(output, Tensor) or output.ndim != 2:
        raise UserError(f"{model.model_name} must return (B,C) logits, got {_described(output)}")
    path = model.classifier
    classifier = _frozen_copy(model.module.get_submodule(path)) if path else None
    return TapShapes(shapes, num_classes=output.shape[1], classifier=classifier, norms=model.norms())


def _frozen_copy(layer: nn.Module) -> nn.Module:
    """A copy without gradient, and without the hooks of the taps, which would write into the live model."""
    frozen = copied(layer, role="classifier").eval().requires_grad_(False)
    for part in frozen.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return frozen


def _check_num_outputs(model: TappedModel, found: int, around: Surroundings) -> None:
    if found != around.num_classes:
        raise UserError(
            f"{model.model_name} gives {found} logits, but there are {around.num_classes} classes; build it "
            f"with {around.num_classes} outputs (timm and torchvision: num_classes={around.num_classes})"
        )


def _refuse_other_classes(config: MethodConfig, context: Context) -> None:
    ours, theirs = context.student.num_classes, context.teacher.num_classes
    if "teacher_logits" in config.method.needs_for(config) and ours != theirs:
        raise UserError(
            f"method {config.method.name!r} reads the teacher's logits, but the teacher has {theirs} classes and the "
            f"student {ours}; take a feature method, or fine-tune the teacher on this data (--train-teacher), or name "
            "its class for each of the data's (teacher.classes=FILE)"
        )


def _described(output: object) -> str:
    return f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
