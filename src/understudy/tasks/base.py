"""What every task is: how a student's output is paired with an Observation, and by which metrics a model is scored."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor

from understudy.core.batch import Batch, Observation, Pairing
from understudy.core.taps import TappedModel
from understudy.distributed.world import SINGLE, World

__all__ = [
    "BatchMeasures",
    "ClassWeights",
    "Evaluation",
    "Metric",
    "Predictor",
    "Task",
    "has_background",
    "headline_metric",
    "is_dense",
]

Predictor = Callable[[Batch], Any]  # a batch in, a model's output on it out
ClassWeights = Literal["balanced"] | Sequence[float] | None  # what each class counts in the task loss


@dataclass(frozen=True, slots=True)
class Metric:
    """One number that a model is scored by."""

    name: str  # in files and settings: `top1`
    title: str  # in tables and figures: `top-1`
    unit: str = ""  # `%`, `points` (of 100), `nats`, `px`; empty for a number without one
    higher_is_better: bool = True  # which way is up
    word: str = ""  # what sentences call it where that is not its title: `accuracy`

    @property
    def is_of_100(self) -> bool:
        """Whether it runs from 0 to 100, so that differences are points."""
        return self.unit in ("%", "points")

    def worth(self, value: float) -> float:
        """The value turned so that the larger one is the better one."""
        return value if self.higher_is_better else -value

    def in_words(self, value: float) -> str:
        """'top-1 81.25 %', 'depth error 0.0512 m'."""
        digits = 2 if self.is_of_100 else 4
        return f"{self.title} {value:.{digits}f} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of one model on one split."""

    scores: Mapping[str, float]  # by the name of the metric, in its unit
    per_item: Tensor = field(repr=False)  # (N,) what the headline metric is the mean of: booleans, or in its unit

    def agreement_with(self, other: Evaluation) -> float | None:
        """Percentage of items on which both models say the same; None where a task does not tell."""
        return None

    def in_words(self, metrics: Iterable[Metric]) -> str:
        """Its scores in one line, in the order of the task's metrics."""
        return "   ".join(metric.in_words(self.scores[metric.name]) for metric in metrics if metric.name in self.scores)

    def classes_in_words(self, names: Sequence[str]) -> list[str]:
        """Its headline class by class, a line each; none where a task does not tell.

        Args:
            names: of the classes, by number.
        """
        return []

    def tensors(self) -> dict[str, Tensor]:
        """What a bank keeps beside the scores, by name: `Task.restored` makes the evaluation of both again."""
        return {"per_item": self.per_item}

    def kept_as(self, split: str, of: str) -> dict[str, Tensor]:
        """What predictions.safetensors keeps, by key; `of` is "teacher" or "ROW/SEED"."""
        return {f"items/{split}/{of}": self.per_item}


@dataclass(frozen=True, slots=True)
class BatchMeasures:
    """What a training batch shows of a task: means over its labelled predictions, without gradient."""

    means: Mapping[str, Tensor]  # () by name, on the device
    num_labelled: Tensor  # () of how many predictions these and the task loss are means


K = TypeVar("K", bound=Hashable)  # what a predictor is called


class Task(Protocol):
    """Runs a student on a batch and lays its predictions beside the teacher's, and says what a model is worth."""

    num_classes: int
    metrics: tuple[Metric, ...]  # what an evaluation holds
    headline: str  # the name of the one by which epochs are selected and rows are compared
    batch_metrics: tuple[str, ...]  # names of those that are measured on training batches, too

    @classmethod
    def for_data(
        cls,
        num_classes: int,
        train_labels: Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
    ) -> Self:
        """The task on data of so many classes, with what a recipe says of it; None: nobody knows the labels."""

    def pair(self, student: TappedModel, observation: Observation, batch: Batch) -> tuple[Tensor, dict[str, Pairing]]:
        """The task's own loss (a scalar with gradient), and the Pairings by name.

        "main" are the predictions that are deployed, "images" has a row an image with its features; where each
        prediction is of an image, one Pairing is both, and may be given as "main" alone. Others have names of the
        task's own, which a method's setting `on` may say ("aux", "distilled").
        """

    def check_targets(self, targets: Any) -> None:
        """Refuse the targets of a batch that no student of this task can learn; reads them back from the device.

        Raises:
            UserError: naming what is wrong.
        """

    def num_labelled(self, batch: Batch) -> Tensor:
        """() how many predictions the task's own loss is a mean of, weighed as there; stays on the device."""

    def batch_measures(self, pairing: Pairing) -> BatchMeasures:
        """The `batch_metrics` of one pass, and how many predictions they are means of; nothing waits for the device."""

    def evaluate(
        self,
        predictors: Mapping[K, Predictor],
        batches: Iterable[Batch],
        device: torch.device,
        world: World = SINGLE,
    ) -> Mapping[K, Evaluation]:
        """Scores of several predictors in one pass over the batches, each process on its own ones."""

    def restored(self, scores: Mapping[str, float], tensors: Mapping[str, Tensor]) -> Evaluation:
        """An evaluation again, from its scores and from what its `tensors` were.

        Raises:
            LookupError: a score or a tensor is missing.
        """

    def nothing_to_teach(self, found: Evaluation) -> str | None:
        """Why a teacher with this evaluation is no better than one that has learnt nothing, with its numbers.

        It goes on after the teacher's name: 'scores 11.0 % on 10 classes: no better than chance'. None: it is better.
        """


def is_dense(task: Task) -> bool:
    """Whether predictions are parts of an image, so that logits are maps and features have rows of their own."""
    return bool(getattr(task, "is_dense", False))


def has_background(task: Task) -> bool:
    """Whether a prediction may be of none of the data's classes, which is one more answer."""
    return bool(getattr(task, "has_background", False))


def headline_metric(task: Task) -> Metric:
    """The metric by which epochs are selected and rows are compared."""
    return next(metric for metric in task.metrics if metric.name == task.headline)
