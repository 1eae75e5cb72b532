"""A task that is no classification: scored by mean IoU over classes, with an area of its own for every image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.core.batch import Batch, Observation, Pairing
from understudy.core.taps import TappedModel
from understudy.distributed.world import SINGLE, World
from understudy.tasks import BatchMeasures, Evaluation, Metric
from understudy.tasks.base import Predictor
from understudy.utils.errors import UserError

LEAST = 20.0  # mIoU above which a teacher has something to teach


class ByIoU:
    """Every image is one large pixel: intersections and unions are counted over all of them."""

    metrics = (Metric("miou", "mIoU", "%"), Metric("surprise", "surprise", "nats", higher_is_better=False))
    headline = "miou"
    batch_metrics = ("hits",)

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    @classmethod
    def for_data(cls, num_classes: int, train_labels: Tensor | None = None, **settings: Any) -> Self:
        return cls(num_classes)

    def pair(self, student: TappedModel, observation: Observation, batch: Batch) -> tuple[Tensor, dict[str, Pairing]]:
        logits, features = student(batch.images)
        pairing = Pairing(logits, observation.output, batch.targets, features, observation.features)
        return F.cross_entropy(logits, batch.targets), {"main": pairing}

    def check_targets(self, targets: Tensor) -> None:
        if targets.max() >= self.num_classes:
            raise UserError(f"there is no area of class {targets.max()}")

    def num_labelled(self, batch: Batch) -> Tensor:
        return torch.tensor(float(len(batch.targets)))

    def batch_measures(self, pairing: Pairing) -> BatchMeasures:
        hits = (pairing.student_logits.detach().argmax(1) == pairing.labels).float().mean()
        return BatchMeasures({"hits": hits}, torch.tensor(len(pairing.labels)))

    def evaluate(
        self,
        predictors: Mapping[Any, Predictor],
        batches: Iterable[Batch],
        device: torch.device,
        world: World = SINGLE,
    ) -> dict[Any, Evaluation]:
        seen = list(batches)
        labels = torch.cat([batch.targets for batch in seen])
        with torch.no_grad():
            outputs = {name: torch.cat([predict(batch) for batch in seen]) for name, predict in predictors.items()}
        return {name: self._scored(logits, labels) for name, logits in outputs.items()}

    def _scored(self, logits: Tensor, labels: Tensor) -> Evaluation:
        said, true = (F.one_hot(classes, self.num_classes).bool() for classes in (logits.argmax(1), labels))
        per_class = (said & true).sum(0) / (said | true).sum(0).clamp_min(1)
        surprise = F.cross_entropy(logits, labels).item()
        return Evaluation(
            {"miou": 100 * per_class.mean().item(), "surprise": surprise}, 100.0 * (logits.argmax(1) == labels)
        )

    def restored(self, scores: Mapping[str, float], tensors: Mapping[str, Tensor]) -> Evaluation:
        return Evaluation(dict(scores), tensors["per_item"])

    def nothing_to_teach(self, found: Evaluation) -> str | None:
        miou = found.scores["miou"]
        return None if miou > LEAST else f"reaches mIoU {miou:.1f} %, which is to be above {LEAST:.0f} %"
