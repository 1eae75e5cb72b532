"""Small networks' stages, and features that fit them, for the tests of the feature methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from helpers.examples import built, normal, random_labels
from understudy.core.batch import Pairing
from understudy.core.taps import TapShape
from understudy.methods.base import Context, Method, TapShapes

Shape = tuple[int, ...]

CNN: list[Shape] = [(4, 8, 8), (4, 8, 8), (6, 4, 4), (8, 2, 2)]
WIDER_CNN: list[Shape] = [(6, 8, 8), (8, 8, 8), (10, 4, 4), (12, 2, 2)]
VIT: list[Shape] = [(7, 3, 3)] * 6


def side(shapes: Sequence[Shape], num_classes: int = 5) -> TapShapes:
    taps = {f"{group}.{i}": TapShape(*shape) for group in ("stages", "preact_stages") for i, shape in enumerate(shapes)}
    return TapShapes(taps, num_classes=num_classes)


def stages(student: Sequence[Shape] = CNN, teacher: Sequence[Shape] = WIDER_CNN) -> Context:
    """Two networks with other stages and other class counts."""
    return Context(student=side(student), teacher=side(teacher, num_classes=9), num_classes=5)


def leaves(shapes: Mapping[str, TapShape], num_rows: int, seed: int) -> dict[str, Tensor]:
    def leaf(shape: TapShape, number: int) -> Tensor:
        sizes = [size for size in (shape.channels, shape.height, shape.width) if size is not None]
        return normal(num_rows, *sizes, seed=100 * seed + number, scale=1.0).float().requires_grad_()

    return {name: leaf(shape, number) for number, (name, shape) in enumerate(shapes.items())}


def batch_of(context: Context, num_rows: int = 5, seed: int = 0) -> Pairing:
    """Features only; every one a leaf that would take a gradient."""
    return Pairing(
        student_logits=normal(num_rows, 5, seed=seed).float(),
        teacher_logits=None,
        labels=random_labels(num_rows, 5, seed),
        student_features=leaves(context.student, num_rows, 2 * seed),
        teacher_features=leaves(context.teacher, num_rows, 2 * seed + 1),
    )


def method_of(name: str, context: Context | None = None, **settings: Any) -> Method:
    """The method for these stages, or for those of `stages`."""
    return built(name, context or stages(), **settings)
