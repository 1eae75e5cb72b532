"""Object detection: boxes around things, and what they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from understudy.core.batch import IMAGES, MAIN, Batch, Observation, Pairing
from understudy.core.boxes import Boxes
from understudy.core.config import Config
from understudy.core.detection import Detections, OtherFamilyError, Proposals, Scored
from understudy.core.precision import at_least_float32
from understudy.core.taps import TappedModel
from understudy.distributed.world import SINGLE, World
from understudy.tasks.base import BatchMeasures, ClassWeights, Evaluation, K, Metric, Predictor
from understudy.tasks.box_evaluation import METRICS, BoxEvaluation, BoxMatches
from understudy.tasks.dense import as_rows, checked_num_classes, rows_of_images
from understudy.tasks.object_masks import MaskKind, ObjectMasks
from understudy.utils.errors import UserError

__all__ = ["Detection", "DetectionConfig", "DetectorLike"]

FOREGROUND = "foreground"  # the Pairing of those proposals that are objects
LEAST_AP = 1.0  # percent; a teacher below it has learnt nothing


@runtime_checkable
class DetectorLike(Protocol):
    """What the task asks of a network; `forward` gives maps by level."""

    num_classes: int

    def anchors(self, maps: Mapping[str, Tensor], images: Tensor) -> list[Tensor]:
        """By level, (H * W * A, 4) boxes that it starts from, position by position."""

    def propose(self, maps: Mapping[str, Tensor], images: Tensor, boxes: Boxes) -> Proposals:
        """Boxes that heads are asked about in a training step."""

    def score(self, maps: Mapping[str, Tensor], proposals: Proposals) -> Scored:
        """What its head says of proposals."""

    def losses(self, proposals: Proposals, scored: Scored) -> dict[str, Tensor]:
        """Its own losses."""

    def detections(self, maps: Mapping[str, Tensor], images: Tensor, sizes: Tensor) -> list[Detections]:
        """What it finds, by image."""


@runtime_checkable
class FinderLike(Protocol):
    """What evaluation asks of whoever gave the maps."""

    def detections(self, maps: Any, images: Tensor, sizes: Tensor) -> list[Detections]:
        """What it finds, by image."""


class DetectionConfig(Config):
    """Settings of detection."""

    masks: MaskKind = "anchors"  # where FGFI imitates: where an anchor is near a box, or in boxes


class Detection:
    """A detector's own losses, and Pairings whose rows are the boxes that the student proposes.

    The student's head is asked about its proposals once, for its losses and for the Pairing; the teacher's is asked
    about the same boxes on its own maps. "main" has a row for each proposal and a column for each class, background
    last; "foreground" has those rows that are objects. One-stage heads have a Pairing for each level besides ("p3" and
    so on), with a row for each position and a column for each anchor and class, a sigmoid each. "images" has a row an
    image with its features, and, as maps, masks of where objects are on every level that is tapped
    ("weights.stages.0" and so on).

    Args:
        num_classes: C, without the background.
        settings: of the masks.

    Raises:
        UserError: a number of classes that cannot be.
    """

    metrics: tuple[Metric, ...] = METRICS
    headline: str = "ap"
    batch_metrics: tuple[str, ...] = ("proposal_accuracy",)
    is_dense: bool = True
    has_background: bool = True

    def __init__(self, num_classes: int, *, settings: DetectionConfig | None = None) -> None:
        self.num_classes = checked_num_classes(num_classes, "boxes")
        self.settings = settings or DetectionConfig()

    @classmethod
    def for_data(
        cls,
        num_classes: int,
        train_labels: Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        settings: DetectionConfig | None = None,
    ) -> Self:
        """The task on data of so many classes.

        Raises:
            UserError: label smoothing or class weights, which a detector's own losses do not have.
        """
        if label_smoothing or class_weights is not None:
            raise UserError("a detector's losses know neither label_smoothing nor class_weights; leave them out")
        return cls(num_classes, settings=settings)

    def pair(self, student: TappedModel, observation: Observation, batch: Batch) -> tuple[Tensor, dict[str, Pairing]]:
        """The sum of the detector's losses, and rows of proposals and of images."""
        detector, boxes = _detector_in(student), _as_boxes(batch.targets)
        maps, features = student(batch.images)
        proposals = detector.propose(maps, batch.images, boxes)
        scored = detector.score(maps, proposals)
        task_loss = torch.stack(list(detector.losses(proposals, scored).values())).sum()
        taught = self._answer(observation, proposals)
        rows = Pairing(
            at_least_float32(scored.logits),
            None if taught is None else at_least_float32(taught.logits),
            proposals.labels,
            is_ragged=True,
            activation=scored.activation,
        )
        masks = ObjectMasks(
            self.settings.masks, lambda: detector.anchors(maps, batch.images), maps, batch.images, boxes, features
        )
        images = rows_of_images(batch, observation, features, masks, rows.student_logits)
        pairings = {MAIN: rows, FOREGROUND: _objects_of(rows, proposals.is_object), IMAGES: images}
        return task_loss, {**pairings, **_by_level(scored, taught)}

    def _answer(self, observation: Observation, proposals: Proposals) -> Scored | None:
        """What the teacher's head says of the student's proposals; None where it is of another family, or not there."""
        if observation.output is None:
            return None
        if observation.ask is None:
            raise UserError(
                "the teacher's head has to be asked about the boxes that the student proposes, and this teacher is a "
                "bank or gives maps alone; take the live teacher, a detector of its own"
            )
        try:
            scored: Scored = observation.ask(observation.output, proposals)
        except OtherFamilyError:  # methods on rows are refused where they ask for it
            return None
        num_classes = scored.logits.shape[1] - (scored.activation == "softmax")
        if num_classes != self.num_classes:
            raise UserError(
                f"the teacher tells {num_classes} classes apart, and the student {self.num_classes}; name its column "
                "for each class of the data (columns)"
            )
        return scored

    def check_targets(self, targets: Any) -> None:
        """Refuse targets that are no boxes, or boxes that no detector can learn.

        Raises:
            UserError: naming what is wrong.
        """
        boxes = _as_boxes(targets)
        if not len(boxes.labels):
            return
        lowest, highest = int(boxes.labels.min()), int(boxes.labels.max())
        if lowest < 0 or highest >= self.num_classes:
            raise UserError(
                f"a box is of class {lowest if lowest < 0 else highest}, but there are {self.num_classes} "
                f"(0..{self.num_classes - 1}, without the background); give the student as many classes as the data has"
            )
        flat = (boxes.boxes[:, 2:] <= boxes.boxes[:, :2]).any(dim=1) & ~boxes.crowd
        if bool(flat.any()):
            raise UserError(
                f"{int(flat.sum())} boxes have no width or no height, such as "
                f"{boxes.boxes[flat][0].tolist()}; leave them out"
            )

    def num_labelled(self, batch: Batch) -> Tensor:
        """() images: each counts alike, as a detector samples as many boxes of each."""
        return torch.tensor(float(len(batch.images)), device=batch.images.device)

    def batch_measures(self, pairing: Pairing) -> BatchMeasures:
        """The share of proposals that are called rightly, in percent; most are background."""
        with torch.no_grad():
            is_right = (pairing.student_logits.detach().argmax(dim=1) == pairing.labels).float()
        count = torch.tensor(len(pairing.labels), device=pairing.labels.device)
        return BatchMeasures({"proposal_accuracy": 100.0 * is_right.mean()}, count)

    def evaluate(
        self,
        predictors: Mapping[K, Predictor],
        batches: Iterable[Batch],
        device: torch.device,
        world: World = SINGLE,
    ) -> dict[K, BoxEvaluation]:
        """COCO's average precision of each predictor, in pixels of the files, all in one pass over the batches."""
        matches = {name: BoxMatches(self.num_classes, world) for name in predictors}
        with torch.no_grad():
            for batch in batches:
                here = batch.to(device)
                boxes = _as_boxes(here.targets)
                for name, predict in predictors.items():
                    maps = predict(here)
                    detector = getattr(maps, "detector", None)
                    if not isinstance(detector, FinderLike):
                        raise _no_detector(type(maps).__name__)
                    matches[name].add(detector.detections(maps, here.images, boxes.sizes), boxes)
        return {name: found.read() for name, found in matches.items()}

    def restored(self, scores: Mapping[str, float], tensors: Mapping[str, Tensor]) -> BoxEvaluation:
        """The evaluation of which a bank kept match lists."""
        return BoxEvaluation.restored(tensors)

    def nothing_to_teach(self, found: Evaluation) -> str | None:
        """Whether AP is below 1 %, which boxes at random places come near."""
        ap = found.scores["ap"]
        return None if ap >= LEAST_AP else f"reaches AP {ap:.2f} %: below {LEAST_AP:g} % it has found next to nothing"


def _objects_of(rows: Pairing, is_object: Tensor) -> Pairing:
    """The rows that are objects; where there is none, one row beside itself, which teaches nothing."""
    places = is_object.nonzero().flatten()
    if len(places):
        return rows.select(places)
    alone = rows.select(slice(0, 1))
    return replace(alone, teacher_logits=None if alone.teacher_logits is None else alone.student_logits.detach())


def _by_level(scored: Scored, taught: Scored | None) -> dict[str, Pairing]:
    """A Pairing for each level of a head that looks at every position: B*h*w rows of A*C columns, without labels."""
    found = {}
    for name, logits in scored.levels.items():
        theirs = None if taught is None else taught.levels.get(name)
        if theirs is not None and theirs.shape != logits.shape:
            raise UserError(
                f"level {name}: the student's head gives {tuple(logits.shape)} and the teacher's "
                f"{tuple(theirs.shape)}; take detectors with the same anchors and strides"
            )
        rows = as_rows(at_least_float32(logits))
        found[name] = Pairing(
            student_logits=rows,
            teacher_logits=None if theirs is None else as_rows(at_least_float32(theirs).detach()),
            labels=torch.full((len(rows),), -1, device=rows.device),
            activation=scored.activation,
        )
    return found


def _detector_in(student: TappedModel) -> DetectorLike:
    if not isinstance(student.module, DetectorLike):
        raise _no_detector(student.model_name)
    return student.module


def _no_detector(what: str) -> UserError:
    return UserError(
        f"{what} is no detector; take fasterrcnn:BACKBONE, torchvision:NAME or hf:NAME, or "
        "understudy.detector(network, num_classes) of a network that torchvision or transformers built"
    )


def _as_boxes(targets: Any) -> Boxes:
    if not isinstance(targets, Boxes):
        raise UserError(f"detection learns from understudy.core.boxes.Boxes, but got {type(targets).__name__}")
    return targets
