"""What every method is: a Config, the taps it looks at, and a forward from a Pairing to named terms.

A method knows tensors and nothing else: no optimizer, loader, device or rank; of epochs, what `set_epoch` tells it.
Adding a method is adding one file to this folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from understudy.core.batch import IMAGES, MAIN, Activation, Pairing
from understudy.core.config import Config
from understudy.core.precision import at_least_float32
from understudy.core.tap_shapes import TapShapes
from understudy.core.taps import Taps
from understudy.utils.errors import UserError, unknown_name
from understudy.utils.installed import register

__all__ = [
    "METHODS",
    "Context",
    "LossWeights",
    "Method",
    "MethodConfig",
    "Need",
    "Paper",
    "TapShapes",
    "at_least_float32",
    "comparable_logits",
    "method_named",
    "refuse_all_but_rows",
    "refuse_unlike_shapes",
]

Need = Literal["teacher_logits", "hard_labels", "indices", "copies", "pairs", "label_map", "object_masks"]

OF_PREDICTIONS = frozenset[Need]({"teacher_logits", "hard_labels"})  # what a row of features alone does not have

OF_COPIES = frozenset[Need]({"copies", "pairs"})  # an image beside itself in one batch

OF_PLACES = frozenset[Need]({"label_map", "object_masks"})  # what only tasks know that predict many things in an image

METHODS: dict[str, type[Method]] = {}


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method comes from."""

    authors: str  # "Hinton, Vinyals, Dean"
    title: str
    venue: str  # "CVPR"
    year: int
    arxiv: str | None = None


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Default weights of a method: loss = task * task loss + min(epoch / warmup_epochs, 1) * distill * sum of terms."""

    task: float
    distill: float
    warmup_epochs: int = 0
    source: str = ""


class MethodConfig(Config):
    """Settings of a method. A weight or warm-up of None means the method's own default."""

    method: ClassVar[type[Method]]  # set when the Method that owns this Config is defined

    weight: float | None = Field(default=None, ge=0)  # of this method's terms; None: its default
    warmup_epochs: int | None = Field(default=None, ge=0)  # weight grows to its full size over so many epochs
    rows: Literal["all", "local"] = "all"  # related rows: those of all processes together, or of each for itself
    group_size: int | None = Field(default=None, ge=2)  # local: related in groups of so many, as on so many GPUs

    @field_validator("rows")
    @classmethod
    def _are_related(cls, rows: str) -> str:
        if rows == "local" and cls.method.rows == "independent":
            raise ValueError(f"method {cls.method.name!r} takes every row for itself; leave it out, got 'local'")
        return rows

    @field_validator("group_size")
    @classmethod
    def _is_of_local_rows(cls, size: int | None, info: ValidationInfo) -> int | None:
        if size is not None and info.data.get("rows") == "all":
            raise ValueError(f"groups rows that are local; set rows: local, got {size}")
        return size

    on: dict[str, float] | None = None  # which rows are compared, and their weights: {main: 1, aux: 0.4}; or one name

    @field_validator("on", mode="before")
    @classmethod
    def _may_be_names(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            return dict.fromkeys(names, 1.0)
        return names

    @field_validator("on")
    @classmethod
    def _names_something(cls, on: dict[str, float] | None) -> dict[str, float] | None:
        if on is not None and (not on or any(factor < 0 for factor in on.values())):
            raise ValueError(
                f"names rows of the task with weights of at least 0, such as {{main: 1, aux: 0.4}}, got {on}"
            )
        return on

    init_from: str | None = None  # a run folder or method.safetensors: connectors start as another run left them


@dataclass(frozen=True, slots=True)
class Context:
    """What a method is built from: sizes by a dry forward, never typed in by hand."""

    student: TapShapes
    teacher: TapShapes
    num_classes: int
    num_train: int = 0
    train_labels: Tensor | None = None  # (N,)
    generator: torch.Generator = field(default_factory=torch.Generator)


class Method(nn.Module):
    """Base of every method. Its parameters are its connectors.

    A subclass is registered by `class DKD(Method, name="dkd")` and declares what follows.
    """

    class Config(MethodConfig):
        """Replaced by every method's own."""

    name: ClassVar[str]
    paper: ClassVar[Paper | None] = None
    taps: ClassVar[Taps] = Taps()
    needs: ClassVar[frozenset[Need]] = frozenset()  # checked before training starts
    rows: ClassVar[Literal["independent", "related"]] = "independent"
    min_classes: ClassVar[int] = 2
    activations: ClassVar[frozenset[Activation]] = frozenset({"softmax"})  # of logits that it can compare
    default_loss: ClassVar[LossWeights] = LossWeights(task=1.0, distill=1.0)
    # By name of a term, the part of the distill loss that it is ("target", "non_target"): for updates which move the
    # weights by each part apart. All terms, or none.
    streams: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is None:
            return
        register(METHODS, name, cls, kind="a method")
        cls.name = name
        cls.Config.method = cls

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__()
        self.config = config
        self.context = context

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """Taps under these settings; most methods always look at the same places."""
        return cls.taps

    @classmethod
    def needs_for(cls, config: MethodConfig) -> frozenset[Need]:
        """Needs under these settings."""
        return cls.needs

    @classmethod
    def default_loss_for(cls, config: MethodConfig) -> LossWeights:
        """Default weights under these settings; the first run of two has its own."""
        return cls.default_loss

    @classmethod
    def needs_teacher(cls, config: MethodConfig) -> bool:
        """Whether a teacher is looked at; False for the teacher-free methods."""
        return "teacher_logits" in cls.needs_for(config) or bool(cls.taps_for(config).teacher)

    @classmethod
    def reads(cls, config: MethodConfig) -> dict[str, float]:
        """Of which Pairings of a task its terms are, and how much each counts: features are a row an image."""
        if config.on is not None:
            return dict(config.on)
        return {MAIN if cls.needs_for(config) & OF_PREDICTIONS or not cls.has_taps(config) else IMAGES: 1.0}

    @classmethod
    def has_taps(cls, config: MethodConfig) -> bool:
        """Whether it looks at features."""
        taps = cls.taps_for(config)
        return bool(taps.student or taps.teacher)

    @classmethod
    def min_rows(cls, config: MethodConfig) -> int:
        """The smallest batch the method is defined on: 2 where rows are related or normalised over the batch."""
        return 2 if cls.rows == "related" else 1

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """Named, unweighted terms; their sum is the method's loss."""
        raise NotImplementedError(f"method {self.name!r} defines no forward")

    def set_epoch(self, epoch: int, num_epochs: int) -> None:
        """Say which epoch begins, counted from 1, of how many; a method with a curriculum follows it, others need not.

        Called before the first step of each epoch, of a resumed run too: what follows from it is no state of its own.
        """

    def follows_epochs(self) -> bool:
        """Whether `set_epoch` changes something."""
        return type(self).set_epoch is not Method.set_epoch

    def deployed(self, student: nn.Module) -> nn.Module:
        """What is evaluated, counted, timed and exported; nearly always the student itself."""
        return student

    @classmethod
    def deploys_more(cls) -> bool:
        """Whether something else than the student itself is deployed."""
        return cls.deployed is not Method.deployed


def method_named(name: str) -> type[Method]:
    """The method registered under `name`.

    Raises:
        UserError: no such method; the text names the nearest one, or lists them.
    """
    if name not in METHODS:
        raise UserError(f"method {name!r} is {unknown_name(name, ['none', *METHODS])}")
    return METHODS[name]


def comparable_logits(student_logits: Tensor, teacher_logits: Tensor, *temperatures: float) -> tuple[Tensor, Tensor]:
    """Both sides in at least float32, the teacher's detached.

    Raises:
        UserError: the shapes differ, of which torch would broadcast some in silence; there is no axis for classes; or
            one of the temperatures that they are to be divided by is not above 0.
    """
    for temperature in temperatures:
        if isinstance(temperature, int | float) and not temperature > 0:  # a tensor would have to be waited for
            raise UserError(f"a temperature divides the logits and must be above 0, got {temperature!r}")
    if student_logits.ndim < 2:
        raise UserError(f"logits are (M, C), or (N, C, ...) with positions, but got {tuple(student_logits.shape)}")
    if student_logits.shape != teacher_logits.shape:
        raise UserError(
            f"logits are compared class by class, but the student's are {tuple(student_logits.shape)} and the "
            f"teacher's {tuple(teacher_logits.shape)}; take a teacher with the student's classes, or compare "
            "features only (method 'projector' with kl_weight 0)"
        )
    return at_least_float32(student_logits), at_least_float32(teacher_logits.detach())


def refuse_all_but_rows(what: str, *tensors: Tensor) -> None:
    """Refuse tensors that are no rows (M, D), such as maps.

    Raises:
        UserError: naming what wants rows, and the shapes.
    """
    if any(tensor.ndim != 2 for tensor in tensors):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise UserError(
            f"{what} takes rows (M, D), but got {shapes}; average maps (M, D, H, W) over their positions first, or "
            "give every position a row of its own"
        )


def refuse_unlike_shapes(what: str, student: Tensor, teacher: Tensor) -> None:
    """Refuse two sides whose shapes differ, which torch would broadcast in silence where one has a single row.

    Raises:
        UserError: naming what compares them, and the shapes.
    """
    if student.shape != teacher.shape:
        raise UserError(
            f"{what} compares entry by entry, but the student's are {tuple(student.shape)} and the teacher's "
            f"{tuple(teacher.shape)}; give both the same shape"
        )
