"""What every task is: how a student's output is paired with an Observation, and how a model is scored."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from understudy.core.batch import Batch, Observation, Pairing
from understudy.core.taps import TappedModel
from understudy.distributed.world import SINGLE, World

__all__ = ["Evaluation", "Predictor", "Task"]

Predictor = Callable[[Batch], Any]  # a batch in, a model's output on it out


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of one model on one split."""

    top1: float  # percent
    top5: float | None  # percent; None up to five classes
    loss: float  # mean task loss in nats
    predictions: Tensor = field(repr=False)  # (N,) int64 predicted classes on the CPU
    labels: Tensor = field(repr=False)  # (N,) int64

    def agreement_with(self, other: Evaluation) -> float:
        """Percentage of images on which both models predict the same class."""
        return 100.0 * (self.predictions == other.predictions).double().mean().item()

    @property
    def balanced_accuracy(self) -> float:
        """Percent: the mean over the classes that have images of the share of them that is predicted right."""
        num_classes = int(self.labels.max()) + 1
        counts = torch.bincount(self.labels, minlength=num_classes)
        right = torch.bincount(self.labels[self.predictions == self.labels], minlength=num_classes)
        return 100.0 * (right[counts > 0].double() / counts[counts > 0]).mean().item()

    def scores(self) -> dict[str, float]:
        """The numbers alone, for logs and results."""
        found = {"top1": self.top1, "loss": self.loss, "balanced_accuracy": round(self.balanced_accuracy, 4)}
        return found if self.top5 is None else {**found, "top5": self.top5}


K = TypeVar("K", bound=Hashable)  # what a predictor is called


class Task(Protocol):
    """Runs a student on a batch and lays its predictions beside the teacher's."""

    num_classes: int

    def pair(self, student: TappedModel, seen: Observation, batch: Batch) -> tuple[Tensor, dict[str, Pairing]]:
        """The task's own loss (a scalar with gradient), and the Pairings by name."""

    def num_labelled(self, batch: Batch) -> Tensor:
        """() how many predictions the task's own loss is a mean of, weighed as there; stays on the device."""

    def evaluate(
        self,
        predictors: Mapping[K, Predictor],
        batches: Iterable[Batch],
        device: torch.device,
        world: World = SINGLE,
    ) -> dict[K, Evaluation]:
        """Scores of several predictors in one pass over the batches, each process on its own ones."""
