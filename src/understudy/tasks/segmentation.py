"""Semantic segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.core.batch import IMAGES, MAIN, Batch, Observation, Pairing
from understudy.core.outputs import LOGITS, named_outputs
from understudy.core.precision import at_least_float32
from understudy.core.taps import TappedModel
from understudy.distributed.world import SINGLE, World
from understudy.tasks.base import BatchMeasures, ClassWeights, Evaluation, K, Metric, Predictor
from understudy.tasks.class_weights import checked_weights
from understudy.tasks.dense import as_rows, checked_num_classes, rows_of_images
from understudy.tasks.pixel_evaluation import METRICS, PixelEvaluation, PixelScores
from understudy.tasks.pixel_views import at_size
from understudy.tasks.segmentation_settings import SegmentationConfig
from understudy.utils.errors import UserError

__all__ = ["IGNORED", "Segmentation", "SegmentationConfig", "at_size"]

IGNORED = 255  # the value of a pixel that is trained on and counted nowhere, in uint8 label maps
AUX = "aux"  # the output of an auxiliary head, and the Pairing of its rows
MOST_CLASSES = 255


class Segmentation:
    """Cross-entropy on pixels, and Pairings whose rows are the positions of a segmenter's own coarse grid.

    A segmenter gives (B,C,h,w) logits at a stride of its own, and may give "aux" ones beside them. They are enlarged
    to the labels for the loss. Methods on logits see them as they are: "main" and "aux" have B*h*w rows, labelled by
    the nearest pixel; "images" has a row an image with its features, and the labels as a map.

    Args:
        num_classes: C, at most 255.
        label_smoothing: share of every label that is spread over all classes.
        class_weights: (C,) what a pixel of each class counts in the loss; None: all the same.
        settings: which rows methods see, and how scores are made.

    Raises:
        UserError: a number of classes or weights that cannot be.
    """

    metrics: tuple[Metric, ...] = METRICS
    headline: str = "miou"
    batch_metrics: tuple[str, ...] = ("pixel_accuracy",)
    is_dense: bool = True
    banked_maps: tuple[str, ...] = (LOGITS, AUX)  # outputs that a bank keeps, as (C,h,w) maps

    def __init__(
        self,
        num_classes: int,
        *,
        label_smoothing: float = 0.0,
        class_weights: Tensor | Sequence[float] | None = None,
        settings: SegmentationConfig | None = None,
    ) -> None:
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing must be a share from 0 to below 1, got {label_smoothing!r}")
        self.num_classes = checked_num_classes(num_classes, "masks", most=MOST_CLASSES)
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else checked_weights(class_weights, num_classes)
        self.settings = settings or SegmentationConfig()

    @classmethod
    def for_data(
        cls,
        num_classes: int,
        train_labels: Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        settings: SegmentationConfig | None = None,
    ) -> Self:
        """The task on data of so many classes.

        Raises:
            UserError: balanced class weights, for which masks would have to be read: `balanced_by_pixels` makes them.
        """
        if isinstance(class_weights, str):
            raise UserError(
                f"class_weights: {class_weights} counts pixels, and no masks are at hand here; write a number for each "
                "class"
            )
        return cls(num_classes, label_smoothing=label_smoothing, class_weights=class_weights, settings=settings)

    def pair(self, student: TappedModel, observation: Observation, batch: Batch) -> tuple[Tensor, dict[str, Pairing]]:
        """Mean cross-entropy over the labelled pixels, of the auxiliary head too, and rows of both and of images."""
        output, features = student(batch.images)
        own, theirs = _maps(output), {} if observation.output is None else _maps(observation.output)
        labels, weights = _classes(batch.targets), self._weights_on(batch.targets.device)
        task_loss = self._loss(self._enlarged(own[LOGITS], labels), labels, weights)
        if AUX in own and self.settings.aux_weight:
            aux = self._loss(self._enlarged(own[AUX], labels), labels, weights)
            task_loss = task_loss + self.settings.aux_weight * aux
        pairings = {MAIN: self._rows(own[LOGITS], theirs.get(LOGITS), labels)}
        if AUX in self.pairing_names(own, theirs or None):
            pairings[AUX] = self._rows(own[AUX], theirs.get(AUX), labels)
        maps = {"labels": _nearest(labels, *own[LOGITS].shape[2:])}
        pairings[IMAGES] = rows_of_images(batch, observation, features, maps, own[LOGITS])
        return task_loss, pairings

    def pairing_names(self, student: Collection[str], teacher: Collection[str] | None) -> tuple[str, ...]:
        """Which Pairings there are of networks with outputs of these names; None: there is no teacher."""
        has_aux = AUX in student and (teacher is None or AUX in teacher)
        return (MAIN, AUX, IMAGES) if has_aux else (MAIN, IMAGES)

    def check_targets(self, targets: Any) -> None:
        """Refuse targets that are no label maps, or hold a number that is no class.

        Raises:
            UserError: naming it.
        """
        if not isinstance(targets, Tensor) or targets.ndim != 3 or targets.is_floating_point():
            found = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
            raise UserError(f"segmentation learns from label maps (B,H,W) of class numbers, but got {found}")
        classes = _classes(targets)
        highest = int(classes.max()) if classes.numel() else -1
        if highest >= self.num_classes:
            raise UserError(
                f"a mask holds class {highest}, but there are {self.num_classes} (0..{self.num_classes - 1}, "
                f"{IGNORED} and negative numbers are ignored); give the student as many classes as the data has"
            )

    def num_labelled(self, batch: Batch) -> Tensor:
        """() how many pixels the cross-entropy is a mean of, each as often as its class counts."""
        return self._counts(_classes(batch.targets), self._weights_on(batch.targets.device)).float()

    def batch_measures(self, pairing: Pairing) -> BatchMeasures:
        """Pixel accuracy on the labelled rows, in percent."""
        with torch.no_grad():
            known = torch.count_nonzero(pairing.labels >= 0)
            is_right = (pairing.student_logits.detach().argmax(dim=1) == pairing.labels).sum()
        return BatchMeasures({"pixel_accuracy": 100.0 * is_right / known.clamp_min(1)}, known)

    def evaluate(
        self,
        predictors: Mapping[K, Predictor],
        batches: Iterable[Batch],
        device: torch.device,
        world: World = SINGLE,
    ) -> dict[K, PixelEvaluation]:
        """mIoU, pixel accuracy and loss of each predictor at the size of the label maps, all in one pass."""
        scores = {name: PixelScores(self.num_classes, device, world) for name in predictors}
        with torch.no_grad():
            for batch in batches:
                here = batch.to(device)
                labels = _classes(here.targets)
                for name, predict in predictors.items():
                    maps = torch.split(self.logits(predict, here), 1)  # one by one: large at the size of the labels
                    for one, truth in zip(maps, torch.split(labels, 1), strict=True):
                        coarse_labels, enlarge = _nearest(truth, *one.shape[2:]), partial(self._enlarged, labels=truth)
                        scores[name].add(one, coarse_labels, enlarge, truth)
        return {name: score.read(self.settings.absent) for name, score in scores.items()}

    def logits(self, predict: Predictor, batch: Batch) -> Tensor:
        """(B,C,h,w) what a segmenter says of a batch after all looks that an evaluation takes."""
        return self.settings.seen(partial(_looked, predict, batch), batch.images)

    def restored(self, scores: Mapping[str, float], tensors: Mapping[str, Tensor]) -> PixelEvaluation:
        """The evaluation of which a bank kept scores and counts."""
        return PixelEvaluation.of(tensors["counts"].long(), loss=scores["loss"], absent=self.settings.absent)

    def nothing_to_teach(self, found: Evaluation) -> str | None:
        """Whether mIoU is no better than that of one class everywhere, the most frequent one."""
        assert isinstance(found, PixelEvaluation)
        labelled = found.counts[..., 2].double().sum(dim=0)
        constant = 100 * (labelled.max() / labelled.sum() / torch.count_nonzero(labelled)).item()
        miou = found.scores["miou"]
        if miou > constant:
            return None
        return (
            f"reaches mIoU {miou:.1f} % on {self.num_classes} classes: no better than the most frequent one "
            f"everywhere ({constant:.1f} %)"
        )

    def _rows(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> Pairing:
        """Positions as rows; the teacher's grid is brought to the student's."""
        height, width = student.shape[2:]
        rows, classes = as_rows(student), _nearest(labels, height, width).flatten()
        taught = None if teacher is None else as_rows(at_size(teacher, student.shape[2:]))
        pairing = Pairing(rows, taught, classes, has_ignored=True)
        return pairing if self.settings.rows == "all" else pairing.labelled()

    def _enlarged(self, logits: Tensor, labels: Tensor) -> Tensor:
        return at_size(logits, labels.shape[1:], align_corners=self.settings.align_corners)

    def _loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Mean cross-entropy over the labelled pixels; 0 where none is labelled."""
        total = F.cross_entropy(
            logits,
            labels,
            weight=None if weights is None else weights.to(logits.dtype),
            ignore_index=-1,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        counts = self._counts(labels, weights).to(logits.dtype)
        return total / counts.clamp_min(1 if weights is None else torch.finfo(counts.dtype).tiny)

    def _counts(self, labels: Tensor, weights: Tensor | None) -> Tensor:
        if weights is None:
            return torch.count_nonzero(labels >= 0)
        return (weights[labels.clamp(min=0)] * (labels >= 0)).sum()

    def _weights_on(self, device: torch.device) -> Tensor | None:
        """The class weights, kept on the device that asked last."""
        if self.class_weights is not None and self.class_weights.device != device:
            self.class_weights = self.class_weights.to(device)
        return self.class_weights


def _looked(predict: Predictor, batch: Batch, images: Tensor) -> Tensor:
    """(B,C,h,w) logits of the batch with these images in place of its own."""
    return _maps(predict(replace(batch, images=images)))[LOGITS]


def _maps(output: Any) -> dict[str, Tensor]:
    """The (B,C,h,w) logits by name, in float32 or wider."""
    found = {name: one for name, one in named_outputs(output).items() if name in (LOGITS, AUX)}
    if LOGITS not in found or any(one.ndim != 4 for one in found.values()):
        shapes = {name: tuple(one.shape) for name, one in named_outputs(output).items()}
        raise UserError(
            f"a segmenter must return (B,C,h,w) logits, or a dict with them as 'logits' (and 'aux'), but this one "
            f"returns {shapes or type(output).__name__}"
        )
    return {name: at_least_float32(one) for name, one in found.items()}


def _classes(targets: Tensor) -> Tensor:
    """(B,H,W) int64 class numbers, -1 where a pixel has none."""
    labels = targets.long()
    return torch.where((labels == IGNORED) | (labels < 0), -1, labels)


def _nearest(labels: Tensor, height: int, width: int) -> Tensor:
    """(B,height,width): of each cell of a coarser grid the pixel that torch's "nearest" takes."""
    rows = (torch.arange(height, device=labels.device) * labels.shape[1]).div(height, rounding_mode="floor")
    columns = (torch.arange(width, device=labels.device) * labels.shape[2]).div(width, rounding_mode="floor")
    return labels[:, rows][:, :, columns]
