"""Contexts and batches that the tests of relational methods share: rotated copies, stages, a small training set."""

from __future__ import annotations

import torch
from torch import Tensor

from helpers import examples
from helpers.examples import Array, normal, random_labels
from understudy.core.batch import Pairing
from understudy.core.taps import TapShape
from understudy.methods.base import Context, Method, TapShapes

NUM_TRAIN = 24
NUM_CLASSES = 5
STUDENT = {"embedding": TapShape(6), "stages.0": TapShape(3, 8, 8), "stages.1": TapShape(4, 4, 4)}
TEACHER = {"embedding": TapShape(8), "stages.0": TapShape(5, 4, 4), "stages.1": TapShape(7, 2, 2)}
STAGES = {"student_stages": [0, 1], "teacher_stages": [0, 1]}

SETTINGS: dict[str, tuple[str, dict[str, object]]] = {
    "rkd": ("rkd", {}),
    "rkd_squared": ("rkd", {"squared": True}),
    "sp": ("sp", STAGES),
    "pkt": ("pkt", {}),
    "pkt_paper": ("pkt", {"excludes_self": True}),
    "cc": ("cc", {}),
    "cc_gaussian": ("cc", {"form": "gaussian"}),
    "cc_bilinear": ("cc", {"form": "bilinear", "squared": True}),
    "crd": ("crd", {"embedding_dim": 5, "num_negatives": 10}),
    "itrd": ("itrd", {}),
    "itrd_logarithm": ("itrd", {"takes_logarithm": True}),
    "sskd": ("sskd", {"stage": "together"}),
    "hsakd": ("hsakd", {"stage": "together", **STAGES}),
}


def relation_context() -> Context:
    return Context(
        student=TapShapes(STUDENT, num_classes=NUM_CLASSES),
        teacher=TapShapes(TEACHER, num_classes=NUM_CLASSES),
        num_classes=NUM_CLASSES,
        num_train=NUM_TRAIN,
        train_labels=torch.arange(NUM_TRAIN) % NUM_CLASSES,
    )


def built(name: str, **settings: object) -> Method:
    """The method for `relation_context`."""
    return examples.built(name, relation_context(), **settings)


def rotated_pairing(num_samples: int = 5, *, seed: int = 0, scale: float = 1.0) -> Pairing:
    """A float32 batch of samples in four copies, block by block; every tensor is a leaf that would take a gradient."""
    num_rows = 4 * num_samples

    def leaf(*shape: int, offset: int) -> Tensor:
        return normal(num_rows, *shape, seed=seed + offset, scale=scale).float().requires_grad_()

    def side(shapes: dict[str, TapShape], offset: int) -> dict[str, Tensor]:
        sizes = {name: [n for n in (s.channels, s.height, s.width) if n is not None] for name, s in shapes.items()}
        return {name: leaf(*size, offset=offset + i) for i, (name, size) in enumerate(sizes.items())}

    return Pairing(
        student_logits=leaf(NUM_CLASSES, offset=1),
        teacher_logits=leaf(NUM_CLASSES, offset=2),
        labels=random_labels(num_samples, NUM_CLASSES, seed).repeat(4),
        student_features=side(STUDENT, 10),
        teacher_features=side(TEACHER, 20),
        indices=torch.randperm(NUM_TRAIN, generator=torch.Generator().manual_seed(seed))[:num_samples].repeat(4),
        copies=torch.arange(4).repeat_interleave(num_samples),
    )


def changed(pairing: Pairing, change: object) -> Pairing:
    """The batch with `change` applied to all its tensors."""
    assert callable(change)
    values = {
        name: change(value) if isinstance(value := getattr(pairing, name), Tensor) else value
        for name in ("student_logits", "teacher_logits", "labels", "indices", "copies")
    }
    sides = {
        name: {tap: change(feature) for tap, feature in getattr(pairing, name).items()}
        for name in ("student_features", "teacher_features")
    }
    return Pairing(**values, **sides)


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / ((a @ a) * (b @ b)) ** 0.5)
