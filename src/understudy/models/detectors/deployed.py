"""Detectors as files to deploy hold them: images of one size in, plain tensors out."""

from __future__ import annotations

from torch import Tensor, nn

from understudy.models.detectors.base import Detector, Pyramid
from understudy.utils.errors import UserError

__all__ = ["FoundBoxes", "RawBoxes", "detector_in"]


def detector_in(network: nn.Module) -> Detector | None:
    """The detector that a network is, or has behind its normalisation; None where there is none."""
    return next((part for part in network.modules() if isinstance(part, Detector)), None)


def _exported(network: nn.Module) -> Detector | None:
    """The detector in a network of which a file is to be written."""
    detector = detector_in(network)
    if detector is not None and detector.no_export:
        raise UserError(detector.no_export)
    return detector


class FoundBoxes(nn.Module):
    """A detector as one that gives boxes (D,4), labels (D,) and scores (D,) of one image, the surest first.

    Shapes: (1,3,H,W) images in [0,1] to corners x1, y1, x2, y2 in pixels of them, class numbers of the data from 0,
    and probabilities.
    """

    outputs = ("boxes", "labels", "scores")
    is_single = True
    is_unordered = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        detector = _exported(network)
        self.is_ragged = detector is None or not detector.keeps_all

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is found."""
        maps: Pyramid = self.network(images)
        (found,) = maps.detector.detections(maps, images)
        order = found.scores.argsort(descending=True)
        return found.boxes[order], found.labels[order], found.scores[order]


class RawBoxes(nn.Module):
    """A detector as one that gives all its boxes (B,A,4) and their scores by class (B,A,C), none of them sifted.

    A two-stage detector gives (B,A,C,4) boxes, one for each class, of the proposals that its first stage is surest of.

    Raises:
        UserError: a detector that has no such answer.
    """

    outputs = ("boxes", "scores")
    is_ragged = False

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        detector = _exported(network)
        if detector is None or detector.sifting is None:
            raise UserError("--raw: this detector does not say all its boxes before they are sifted; leave it out")
        self.is_single = detector.keeps_all
        self.is_unordered = detector.picks_rows

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and scores."""
        maps: Pyramid = self.network(images)
        return maps.detector.raw(maps, images)
