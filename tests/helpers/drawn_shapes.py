"""Pictures of shapes with their boxes, drawn by seed, and detectors that are small enough to learn them in a test."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.fcos import FCOSHead

from understudy.core.batch import Batch
from understudy.core.boxes import Boxes
from understudy.models.detectors.one_stage import OneStage
from understudy.models.detectors.sources import faster_rcnn, one_stage
from understudy.models.detectors.two_stage import TwoStage

SIDE, CLASSES = 64, 3  # squares, discs, triangles


def small_detector(seed: int = 0, *, width: int = 16, num_classes: int = CLASSES, **settings: Any) -> TwoStage:
    """Faster R-CNN over a narrow ResNet for pictures of 64 pixels."""
    torch.manual_seed(seed)
    return faster_rcnn(
        "resnet10t",
        num_classes,
        width=width,
        head_width=2 * width,
        anchor_sizes=(8, 16, 32, 64, 128),
        backbone={"channels": [width, width, 2 * width, 2 * width], "stem_width": 8},
        box_batch_size_per_image=32,
        rpn_pre_nms_top_n_train=200,
        rpn_post_nms_top_n_train=64,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=64,
        **settings,
    )


def small_one_stage(
    seed: int = 0, *, family: str = "retinanet", width: int = 16, num_classes: int = CLASSES
) -> OneStage:
    """RetinaNet or FCOS over the same backbone."""
    torch.manual_seed(seed)
    width = width if family == "retinanet" else 32  # in whose groups FCOS norms
    return one_stage(
        family,  # type: ignore[arg-type]
        "resnet10t",
        num_classes,
        width=width,
        anchor_sizes=(16, 32, 48, 64, 96) if family == "retinanet" else None,
        backbone={"channels": [width, width, 2 * width, 2 * width], "stem_width": 8},
        **({} if family == "retinanet" else {"head": FCOSHead(width, 1, num_classes, num_convs=1)}),
    )


def picture(generator: torch.Generator) -> tuple[Tensor, Boxes]:
    """One to three shapes of any class, size and colour on noise; later ones hide earlier ones."""

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    image = 0.2 * torch.rand(3, SIDE, SIDE, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    corners, labels = [], []
    for _ in range(between(1, 4)):
        side, label = between(14, 30), between(0, CLASSES)
        top, left = between(0, SIDE - side), between(0, SIDE - side)
        y, x = (rows - top) / (side - 1), (columns - left) / (side - 1)
        inside = (y >= 0) & (y <= 1) & (x >= 0) & (x <= 1)
        if label == 1:
            inside &= (y - 0.5) ** 2 + (x - 0.5) ** 2 <= 0.25
        if label == 2:
            inside &= (x - 0.5).abs() <= y / 2
        colour = 0.4 + 0.6 * torch.rand(3, generator=generator)
        image = torch.where(inside, colour[:, None, None], image)
        corners.append([float(left), float(top), float(left + side), float(top + side)])
        labels.append(label)
    return image, Boxes.of_image(torch.tensor(corners), torch.tensor(labels), (SIDE, SIDE))


def drawn_batches(num_batches: int, batch_size: int, seed: int = 0) -> list[Batch]:
    """Batches of pictures, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for number in range(num_batches):
        pictures = [picture(generator) for _ in range(batch_size)]
        indices = torch.arange(number * batch_size, (number + 1) * batch_size)
        images, boxes = torch.stack([image for image, _ in pictures]), Boxes.packed([boxes for _, boxes in pictures])
        batches.append(Batch(images, boxes, indices=indices))
    return batches
