"""Small segmenters and label maps that the tests of segmentation share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.core.batch import Batch

CLASSES = 4


class Segmenter(nn.Module):
    """Two strided convolutions and a classifier of positions: logits at stride 4, auxiliary ones beside them."""

    def __init__(self, seed: int = 0, *, width: int = 8, stride: int = 4, has_aux: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(width, width, 3, stride=stride // 2, padding=1), nn.ReLU())
        self.classifier = nn.Conv2d(width, CLASSES, 1)
        self.aux = nn.Conv2d(width, CLASSES, 1) if has_aux else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        early = self.first(images)
        logits = {"logits": self.classifier(self.last(early))}
        return logits if self.aux is None else {**logits, "aux": self.aux(early)}


def labelled_batch(num_images: int = 3, size: tuple[int, int] = (16, 24)) -> Batch:
    """Random images with random classes in blocks of 4 x 4 pixels, a few of them ignored."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(num_images, 3, *size, generator=generator)
    blocks = torch.randint(0, CLASSES + 1, (num_images, size[0] // 4, size[1] // 4), generator=generator)
    labels = blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[labels == CLASSES] = 255
    return Batch(images, labels.to(torch.uint8), indices=torch.arange(num_images))
