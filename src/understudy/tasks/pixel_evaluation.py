"""By what segmenters are scored, and what is kept of a score: whole numbers of pixels by image and class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.core.meters import Meter
from understudy.distributed.world import World
from understudy.tasks.base import Evaluation, Metric
from understudy.tasks.iou import AbsentClass, class_counts, class_iou, mean_iou, pixel_accuracy
from understudy.utils.errors import UserError

__all__ = ["METRICS", "PixelEvaluation", "PixelScores"]

METRICS = (
    Metric("miou", "mIoU", "%"),  # the mean over classes of intersection over union, of the pixels of all images
    Metric("pixel_accuracy", "pixel accuracy", "%"),
    # Cross-entropy at the positions of the segmenter's own grid, labelled by the nearest pixel.
    Metric("loss", "loss", "nats", higher_is_better=False),
)


@dataclass(frozen=True, slots=True)
class PixelEvaluation(Evaluation):
    """Scores of one segmenter on one split, and how many pixels of each class it got right on each image."""

    counts: Tensor = field(repr=False)  # (N,C,3) int64 on the CPU: rightly predicted, predicted, labelled

    @classmethod
    def of(cls, counts: Tensor, *, loss: float, absent: AbsentClass = "left_out") -> Self:
        """The evaluation of (N,C,3) counts; the loss in nats."""
        scores = {
            "miou": round(100 * mean_iou(counts, absent=absent).item(), 4),
            "pixel_accuracy": round(100 * pixel_accuracy(counts).item(), 4),
            "loss": loss,
        }
        right, _, labelled = counts.double().sum(dim=1).unbind(dim=1)
        return cls(scores, 100 * right / labelled.clamp_min(1), counts)

    @property
    def by_class(self) -> Tensor:
        """(C,) IoU in percent; NaN where neither labels nor predictions have the class."""
        return 100 * class_iou(self.counts)

    def tensors(self) -> dict[str, Tensor]:
        """The counts: every score but the loss follows from them."""
        return {"counts": self.counts}

    def kept_as(self, split: str, of: str) -> dict[str, Tensor]:
        """The counts, in half the bytes where they fit."""
        fits = not len(self.counts) or int(self.counts.max()) <= torch.iinfo(torch.int32).max
        return {f"counts/{split}/{of}": self.counts.to(torch.int32) if fits else self.counts}


class PixelScores:
    """Running counts of one model.

    Args:
        num_classes: C.
        device: where outputs are.
        world: the processes, each with its own images.
    """

    def __init__(self, num_classes: int, device: torch.device, world: World) -> None:
        self.num_classes, self.device, self.world = num_classes, device, world
        self.counts: list[Tensor] = []
        self.loss = Meter()
        self.loss.add({"loss": torch.zeros((), device=device)}, 0)  # a process without images adds up nothing, too

    def add(self, coarse: Tensor, coarse_labels: Tensor, enlarge: Callable[[Tensor], Tensor], labels: Tensor) -> None:
        """Score the logits of some images.

        Args:
            coarse: (B,C,h,w) as the segmenter gives them.
            coarse_labels: (B,h,w) for the loss, -1 where there is none.
            enlarge: brings logits to the size of the labels.
            labels: (B,H,W), -1 where a pixel counts nowhere.
        """
        predictions = enlarge(coarse).argmax(dim=1)
        # What is NaN or infinite is no prediction: argmax would make it a class, and right wherever that is.
        if not bool(coarse.isfinite().all()):
            predictions = predictions.where(enlarge(coarse).isfinite().all(dim=1), -1)
        self.counts.append(class_counts(predictions, labels, self.num_classes))
        num_labelled = int(torch.count_nonzero(coarse_labels >= 0))
        if num_labelled:
            self.loss.add({"loss": F.cross_entropy(coarse, coarse_labels, ignore_index=-1)}, num_labelled)

    def read(self, absent: AbsentClass) -> PixelEvaluation:
        """The evaluation of all images of all processes.

        Raises:
            UserError: there are none, or no pixel of them is labelled.
        """
        empty = torch.empty(0, self.num_classes, 3, dtype=torch.int64, device=self.device)
        counts = self.world.gather_rows(torch.cat([empty, *self.counts])).cpu()
        if not len(counts):
            raise UserError("there are no images to evaluate on")
        if not int(counts[..., 2].sum()):
            raise UserError("no pixel of the images to evaluate on has a class: all are ignored")
        return PixelEvaluation.of(counts, loss=self.loss.read(self.world.add_up)["loss"], absent=absent)
