"""Small tensors that the method tests share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.core.taps import TapShape
from understudy.methods.base import Context, Method, TapShapes, method_named

Array = NDArray[np.float64]

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 10_000)
row_counts = st.integers(2, 9)
class_counts = st.integers(3, 12)


def normal(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    """Float64 normal values; `scale` is their standard deviation."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_labels(num_rows: int, num_classes: int, seed: int = 0) -> Tensor:
    return torch.randint(num_classes, (num_rows,), generator=torch.Generator().manual_seed(seed))


def softmax(logits: Tensor, temperature: float = 1.0) -> Array:
    """By the textbook, in NumPy."""
    powers: Array = np.exp(logits.numpy() / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def context(student_channels: int = 6, teacher_channels: int = 8, num_classes: int = 5) -> Context:
    def side(channels: int) -> TapShapes:
        return TapShapes({"embedding": TapShape(channels)}, num_classes=num_classes, classifier=None)

    return Context(student=side(student_channels), teacher=side(teacher_channels), num_classes=num_classes)


def pairing(num_rows: int = 7, *, seed: int = 0) -> Pairing:
    """A float32 batch that fits `context()`; every tensor is a leaf that would take a gradient."""

    def leaf(*shape: int, offset: int) -> Tensor:
        return normal(*shape, seed=seed + offset).float().requires_grad_()

    return Pairing(
        student_logits=leaf(num_rows, 5, offset=1),
        teacher_logits=leaf(num_rows, 5, offset=2),
        labels=random_labels(num_rows, 5, seed),
        student_features={"embedding": leaf(num_rows, 6, offset=3)},
        teacher_features={"embedding": leaf(num_rows, 8, offset=4)},
    )


def built(method: str | type[Method], context: Context, /, **settings: Any) -> Method:
    """A method under these settings; its connectors are the same every time."""
    kind = method_named(method) if isinstance(method, str) else method
    torch.manual_seed(0)
    return kind(kind.Config.model_validate(settings), context)


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of a method's terms."""
    return torch.stack(list(terms.values())).sum()
