"""By what classifiers are scored, and what is kept of a score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from understudy.tasks.base import Evaluation, Metric

__all__ = ["METRICS", "ClassEvaluation", "balanced_accuracy"]

METRICS = (
    Metric("top1", "top-1", "%", word="accuracy"),
    Metric("top5", "top-5", "%"),  # above five classes only
    # The mean over the classes that have images of the share of them that is predicted right.
    Metric("balanced_accuracy", "balanced accuracy", "%"),
    Metric("loss", "loss", "nats", higher_is_better=False),  # cross-entropy
)


@dataclass(frozen=True, slots=True)
class ClassEvaluation(Evaluation):
    """Scores of one classifier on one split, and what it predicts of each image."""

    predictions: Tensor = field(repr=False)  # (N,) int64 predicted classes on the CPU; -1 for an output that is none
    labels: Tensor = field(repr=False)  # (N,) int64

    @classmethod
    def of(cls, predictions: Tensor, labels: Tensor, *, top1: float, top5: float | None, loss: float) -> Self:
        """The evaluation of (N,) predictions; top-1 and top-5 (None up to five classes) in percent, the loss in nats.

        A batch's outputs are gone by now, so what needs them is given: the rest is counted.
        """
        scores = {
            "top1": top1,
            "top5": top5,
            "balanced_accuracy": round(balanced_accuracy(predictions, labels), 4),
            "loss": loss,
        }
        known = {name: score for name, score in scores.items() if score is not None}
        return cls(known, predictions == labels, predictions, labels)

    @property
    def top1(self) -> float:
        """Percent of the images whose class is named."""
        return self.scores["top1"]

    @property
    def top5(self) -> float | None:
        """Percent of the images whose class is among the five likeliest; None up to five classes."""
        return self.scores.get("top5")

    @property
    def balanced_accuracy(self) -> float:
        """Percent: the mean over the classes that have images of the share of them that is predicted right."""
        return self.scores["balanced_accuracy"]

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return self.scores["loss"]

    def agreement_with(self, other: Evaluation) -> float | None:
        """Percentage of images on which both models predict the same class; None beside another task's."""
        if not isinstance(other, ClassEvaluation):
            return None
        return 100.0 * (self.predictions == other.predictions).double().mean().item()

    def in_words(self, metrics: Iterable[Metric]) -> str:
        """Its scores in one line; balanced accuracy only where the classes have unequally many images."""
        counts = self.labels.bincount()
        is_even = len(set(counts[counts > 0].tolist())) == 1
        balanced = "" if is_even else f"   balanced {self.balanced_accuracy:.2f} %"
        top5 = "" if self.top5 is None else f"   top-5 {self.top5:.2f} %"
        return f"top-1 {self.top1:.2f} %{top5}{balanced}   loss {self.loss:.4f}"

    def tensors(self) -> dict[str, Tensor]:
        """Predicted classes and labels."""
        return {"predictions": self.predictions, "labels": self.labels}

    def kept_as(self, split: str, of: str) -> dict[str, Tensor]:
        """Predicted classes and labels: which images are right follows from them."""
        return {f"{split}/{of}": self.predictions, f"{split}/labels": self.labels}


def balanced_accuracy(predictions: Tensor, labels: Tensor) -> float:
    """Percent: the mean over the classes that have images of the share of them that is predicted right.

    Args:
        predictions: (N,) class numbers.
        labels: (N,) class numbers, of at least one image.
    """
    num_classes = int(labels.max()) + 1
    is_right = (predictions == labels).double()
    none = is_right.new_zeros(num_classes)
    # Sums by class rather than bincount: no shape hangs on a value, so that a pretended device can follow.
    counts, right = none.scatter_add(0, labels, torch.ones_like(is_right)), none.scatter_add(0, labels, is_right)
    return 100.0 * ((right / counts.clamp_min(1)).sum() / torch.count_nonzero(counts)).item()
