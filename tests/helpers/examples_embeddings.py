"""Two small networks' worth of stages, pre-activations and embeddings, and what every method on them must do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from helpers import examples
from helpers.examples import normal, random_labels, total
from understudy.core.batch import Pairing
from understudy.core.taps import TapShape
from understudy.methods.base import Context, Method, TapShapes

# The student has four stages, the teacher four of other widths and, from the second on, other sizes.
STUDENT = (TapShape(3, 8, 8), TapShape(4, 8, 8), TapShape(5, 4, 4), TapShape(6, 2, 2))
TEACHER = (TapShape(4, 8, 8), TapShape(6, 8, 8), TapShape(7, 5, 5), TapShape(8, 3, 3))
NUM_CLASSES = 5


def side(stages: tuple[TapShape, ...], *, num_classes: int = NUM_CLASSES, norms: bool = True) -> TapShapes:
    """Stages, pre-activations with a batch norm each, an embedding as wide as the last stage, and its class maps."""
    shapes = {f"{group}.{i}": shape for group in ("stages", "preact_stages") for i, shape in enumerate(stages)}
    channels = stages[-1].channels
    torch.manual_seed(0)
    classifier = nn.Linear(channels, num_classes, dtype=torch.float64)
    batch_norms = {}
    for i, shape in enumerate(stages):
        batch_norms[f"preact_stages.{i}"] = norm = nn.BatchNorm2d(shape.channels)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return TapShapes(
        {
            **shapes,
            "embedding": TapShape(channels),
            "cam": TapShape(num_classes, stages[-1].height, stages[-1].width),
        },
        num_classes=num_classes,
        classifier=classifier,
        norms=batch_norms if norms else None,
    )


def deep_context(
    student: tuple[TapShape, ...] = STUDENT,
    teacher: tuple[TapShape, ...] = TEACHER,
    *,
    teacher_classes: int = NUM_CLASSES,
) -> Context:
    return Context(student=side(student), teacher=side(teacher, num_classes=teacher_classes), num_classes=NUM_CLASSES)


def deep_pairing(context: Context, num_rows: int = 5, *, seed: int = 0, scale: float = 1.0) -> Pairing:
    """A float64 batch; the embedding is the mean of the last stage. Every feature is a leaf that takes a gradient."""

    def leaves(shapes: TapShapes, seed: int) -> dict[str, Tensor]:
        found = {}
        for number, tap in enumerate(shapes):
            shape = shapes[tap]
            sides = () if shape.height is None or shape.width is None else (shape.height, shape.width)
            found[tap] = normal(num_rows, shape.channels, *sides, seed=seed + number, scale=scale)
        last = max(tap for tap in found if tap.startswith("stages."))
        if found[last].ndim == 4:
            found["embedding"] = found[last].mean(dim=(2, 3))
        return {tap: feature.requires_grad_() for tap, feature in found.items()}

    return Pairing(
        student_logits=normal(num_rows, NUM_CLASSES, seed=seed).requires_grad_(),
        teacher_logits=None,
        labels=random_labels(num_rows, NUM_CLASSES, seed),
        student_features=leaves(context.student, 100 * seed + 10),
        teacher_features=leaves(context.teacher, 100 * seed + 50),
    )


def built(kind: type[Method], context: Context, /, **settings: object) -> Method:
    """The method in float64."""
    return examples.built(kind, context, **settings).double()


def in_order(pairing: Pairing, order: Tensor) -> Pairing:
    """The same rows in another order."""
    return replace(
        pairing,
        student_logits=pairing.student_logits[order],
        labels=pairing.labels[order],
        student_features={tap: feature[order] for tap, feature in pairing.student_features.items()},
        teacher_features={tap: feature[order] for tap, feature in pairing.teacher_features.items()},
    )


def check_order(method: Method, pairing: Pairing, seed: int) -> None:
    """A permutation of the batch leaves every term as it is."""
    order = torch.randperm(len(pairing.labels), generator=torch.Generator().manual_seed(seed))
    expected, found = method(pairing), method(in_order(pairing, order))
    assert expected.keys() == found.keys()
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term)


def check_gradients(method: Method, pairing: Pairing, *taps: str) -> None:
    """Gradients reach these student features and every connector, and nothing of the teacher."""
    total(method(pairing)).backward()
    reached = {tap for tap, feature in pairing.student_features.items() if feature.grad is not None}
    assert reached == set(taps)
    assert all(pairing.student_features[tap].grad.any() for tap in taps)  # type: ignore[union-attr]
    assert all(feature.grad is None for feature in pairing.teacher_features.values())
    trained = {name: weight for name, weight in method.named_parameters() if weight.requires_grad}
    assert trained
    assert [name for name, weight in trained.items() if weight.grad is None] == []
    frozen = [weight for weight in method.parameters() if not weight.requires_grad]
    assert all(weight.grad is None for weight in frozen)


def check_half_autocast(method: Method, pairing: Pairing, dtype: torch.dtype) -> None:
    """Features of 1000 and more in a half type under autocast leave loss and gradients finite, in float32."""

    def halved(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {tap: (1000 * feature.detach()).to(dtype).requires_grad_() for tap, feature in features.items()}

    half = replace(
        pairing,
        student_features=halved(pairing.student_features),
        teacher_features=halved(pairing.teacher_features),
    )
    method = method.float()
    with torch.autocast("cpu", dtype=dtype):
        loss = total(method(half))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    gradients = [feature.grad for feature in half.student_features.values() if feature.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
