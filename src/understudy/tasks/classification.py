"""Image classification: one prediction per image."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.core.batch import IMAGES, MAIN, Batch, Observation, Pairing
from understudy.core.heads import CLASS_HEAD, MEAN, gives_heads, head_names, named_heads
from understudy.core.labels import check_labels
from understudy.core.meters import Meter
from understudy.core.outputs import logits_of, named_outputs
from understudy.core.precision import at_least_float32
from understudy.core.taps import TappedModel
from understudy.distributed.world import SINGLE, World
from understudy.tasks.base import BatchMeasures, ClassWeights, Evaluation, K, Metric, Predictor
from understudy.tasks.class_evaluation import METRICS, ClassEvaluation
from understudy.tasks.class_weights import checked_weights, class_weights_for
from understudy.utils.errors import UserError

__all__ = ["Classification"]

UNLABELLED = -1


class Classification:
    """Cross-entropy on hard or mixed labels, and one Pairing, "main" and "images" alike, with a row per image.

    Of a network that gives several heads apart, the first is the main one and learns from labels. Every other has a
    Pairing under its own name, with the same features beside it and the logits of a teacher of its own where the
    teacher gives an output of that name, and "mean" has the mean of all logits: what is
    deployed.

    Args:
        num_classes: C.
        label_smoothing: share of every label that is spread over all classes (Szegedy et al., CVPR 2016).
        class_weights: (C,) what an image of each class counts; None: all the same. The loss is torch's weighted mean
            over the whole step: divided by the weights of its labels, or by the number of images where labels are
            mixed. Scores are of unweighted images.

    Raises:
        UserError: class_weights that are not C numbers of at least 0, one of them above.
    """

    metrics: tuple[Metric, ...] = METRICS
    headline: str = "top1"
    batch_metrics: tuple[str, ...] = ("top1",)

    def __init__(
        self, num_classes: int, *, label_smoothing: float = 0.0, class_weights: Tensor | Sequence[float] | None = None
    ) -> None:
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise UserError(f"num_classes must be a whole number above 0, got {num_classes!r}")
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing must be a share from 0 to below 1, got {label_smoothing!r}")
        self.num_classes = num_classes
        self.metrics = tuple(metric for metric in METRICS if metric.name != "top5" or num_classes > 5)
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else checked_weights(class_weights, num_classes)

    @classmethod
    def for_data(
        cls,
        num_classes: int,
        train_labels: Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
    ) -> Self:
        """The task on data of so many classes; `train_labels` (N,) are what balanced class weights are counted from."""
        labels = torch.empty(0, dtype=torch.int64) if train_labels is None else train_labels
        weights = class_weights_for(class_weights, labels, num_classes)
        return cls(num_classes, label_smoothing=label_smoothing, class_weights=weights)

    def pair(self, student: TappedModel, observation: Observation, batch: Batch) -> tuple[Tensor, dict[str, Pairing]]:
        """Mean cross-entropy over the labelled images that are no copies, and the Pairing of all (B,C) logits."""
        output, features = student(batch.images)
        heads = _heads_of(student.module, output)
        logits = heads[CLASS_HEAD]
        plain = batch.plain
        task_loss = self._loss(logits[plain], batch.targets[plain])
        teacher_logits = None if observation.output is None else _as_logits(observation.output)
        pairing = Pairing(
            student_logits=logits,
            teacher_logits=teacher_logits,
            labels=batch.targets,
            student_features=features,
            teacher_features=observation.features,
            indices=batch.indices,
            copies=batch.copies,
            num_plain=batch.num_plain,
        )
        taught = named_outputs(observation.output)  # a teacher for one head alone is an output of the head's name
        others = {
            name: replace(
                pairing,
                student_logits=found,
                teacher_logits=_as_logits(taught[name]) if name in taught else teacher_logits,
            )
            for name, found in heads.items()
            if name != CLASS_HEAD
        }
        return task_loss, {MAIN: pairing, IMAGES: pairing, **others}

    def check_targets(self, targets: Tensor) -> None:
        """Refuse (B,) labels that are no classes, and (B,C) mixed ones of another number of classes."""
        check_labels(targets, self.num_classes)

    def num_labelled(self, batch: Batch) -> Tensor:
        """() how many images the cross-entropy is a mean of, each as often as its class counts."""
        targets = batch.targets[batch.plain]
        if targets.ndim == 2:
            return torch.full((), float(len(targets)), device=targets.device)
        if self.class_weights is None:
            return torch.count_nonzero(targets != UNLABELLED).float()
        return self._counts_of(targets, self._weights_on(targets.device)).sum()

    def batch_measures(self, pairing: Pairing) -> BatchMeasures:
        """Top-1 on the labelled images that are no copies; of mixed labels their largest share counts."""
        with torch.no_grad():
            plain = pairing.plain
            logits, labels = pairing.student_logits.detach()[plain], pairing.labels[plain]
            is_mixed = labels.ndim == 2
            hard = labels.argmax(dim=1) if is_mixed else labels
            known = torch.full((), len(labels), device=labels.device) if is_mixed else torch.count_nonzero(labels >= 0)
            top1 = 100.0 * (logits.argmax(dim=1) == hard).sum() / known.clamp_min(1)
        return BatchMeasures({"top1": top1}, known)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over the labelled rows; 0 where none is labelled."""
        weights = None if self.class_weights is None else self._weights_on(logits.device).to(logits.dtype)
        total = F.cross_entropy(
            logits,
            targets,
            weight=weights,
            ignore_index=UNLABELLED,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        if targets.ndim == 2:
            return total / len(targets)
        if weights is None:
            return total / (targets != UNLABELLED).sum().clamp_min(1)
        counts = self._counts_of(targets, weights)
        return total / counts.sum().clamp_min(torch.finfo(counts.dtype).tiny)

    def _weights_on(self, device: torch.device) -> Tensor:
        """The class weights, kept on the device that asked last: a step must not wait for a copy."""
        assert self.class_weights is not None
        if self.class_weights.device != device:
            self.class_weights = self.class_weights.to(device)
        return self.class_weights

    def _counts_of(self, targets: Tensor, weights: Tensor) -> Tensor:
        """(B,) the weight of each image's class; 0 without a label."""
        return weights[targets.clamp(min=0)] * (targets != UNLABELLED)

    def evaluate(
        self,
        predictors: Mapping[K, Predictor],
        batches: Iterable[Batch],
        device: torch.device,
        world: World = SINGLE,
    ) -> dict[K, ClassEvaluation]:
        """Top-1, top-5 and loss of each predictor, all on the same pass over the batches.

        Mixed labels (B,C) enter the loss as they are, and are counted by their largest share.
        """
        scores = {name: _Scores(self.num_classes, device, world) for name in predictors}
        with torch.no_grad():
            for batch in batches:
                here = batch.to(device)
                for name, predict in predictors.items():
                    scores[name].add(_as_logits(predict(here)), here.targets)
        return {name: score.read() for name, score in scores.items()}

    def restored(self, scores: Mapping[str, float], tensors: Mapping[str, Tensor]) -> ClassEvaluation:
        """The evaluation of which a bank kept scores, predictions and labels."""
        return ClassEvaluation.of(
            tensors["predictions"],
            tensors["labels"],
            top1=scores["top1"],
            top5=scores.get("top5"),
            loss=scores["loss"],
        )

    def nothing_to_teach(self, found: Evaluation) -> str | None:
        """Whether top-1 is within two standard errors of 1/C, on so many images."""
        chance, num_images = 1 / self.num_classes, len(found.per_item)
        limit = 100 * (chance + 2 * math.sqrt(chance * (1 - chance) / num_images))
        top1 = found.scores["top1"]
        if top1 > limit:
            return None
        return (
            f"scores {top1:.1f} % on {self.num_classes} classes: no better than chance (which may reach {limit:.1f} % "
            f"on {num_images} images)"
        )


class _Scores:
    """Running scores of one model."""

    def __init__(self, num_classes: int, device: torch.device, world: World) -> None:
        # Here, since its import takes as long as torch's own: with transformers and scipy, where they are there.
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        self.world = world
        self.device = device
        top = {1: "top1", 5: "top5"} if num_classes > 5 else {1: "top1"}
        self.accuracy = MetricCollection(
            {
                name: MulticlassAccuracy(num_classes, top_k=k, average="micro", validate_args=False)
                for k, name in top.items()
            }
        ).to(device)
        self.loss = Meter()
        self.loss.add({"loss": torch.zeros((), device=device)}, 0)  # a process without images adds up nothing, too
        self.predictions: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        targets = labels
        if labels.ndim == 2:
            labels = labels.argmax(dim=1)
        else:
            labelled = labels != UNLABELLED
            logits, labels = logits[labelled], labels[labelled]
            targets = labels
        if len(labels) == 0:
            return
        # A row that is NaN or infinite is no prediction: argmax would make it class 0, and right wherever that is.
        is_finite = logits.isfinite().all(dim=1)
        wrong = -F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        self.accuracy.update(torch.where(is_finite[:, None], logits, wrong), labels)
        self.loss.add({"loss": F.cross_entropy(logits, targets)}, len(labels))
        self.predictions.append(torch.where(is_finite, logits.argmax(dim=1), -1))
        self.labels.append(labels)

    def read(self) -> ClassEvaluation:
        empty = torch.empty(0, dtype=torch.int64, device=self.device)
        labels = self.world.gather_rows(torch.cat([empty, *self.labels]))
        if not len(labels):
            raise UserError("there are no images to evaluate on")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The ``compute`` method", UserWarning)  # a process may have no images
            accuracy = self.accuracy.compute()  # torchmetrics adds up over the processes
        return ClassEvaluation.of(
            self.world.gather_rows(torch.cat([empty, *self.predictions])).cpu(),
            labels.cpu(),
            top1=_percent(accuracy["top1"]),
            top5=_percent(accuracy["top5"]) if "top5" in accuracy else None,
            loss=self.loss.read(self.world.add_up)["loss"],
        )


def _percent(share: Tensor) -> float:
    # The share is float32: four decimals are exact up to a million images, further ones are noise.
    return round(100.0 * share.item(), 4)


def _heads_of(network: nn.Module, output: object) -> dict[str, Tensor]:
    """(B,C) logits by head, and their mean where there are several; a network with one gives "logits" alone."""
    named = named_heads(network, output)
    names = head_names(network) if gives_heads(network) and isinstance(named, Mapping) else (CLASS_HEAD,)
    if len(names) == 1:
        return {CLASS_HEAD: _as_logits(named)}
    heads = {name: _as_logits(named[name]) for name in names}
    return {**heads, MEAN: torch.stack([*heads.values()]).mean(dim=0)}


def _as_logits(output: object) -> Tensor:
    """The (B,C) logits in float32 or wider."""
    logits = logits_of(output)
    if logits is None or logits.ndim != 2:
        returned = type(output).__name__ if logits is None else f"shape {tuple(logits.shape)}"
        raise UserError(
            f"a classifier must return a (B,C) tensor of logits, but this one returns {returned}; "
            "wrap it in a module whose forward returns the logits alone"
        )
    return at_least_float32(logits)
