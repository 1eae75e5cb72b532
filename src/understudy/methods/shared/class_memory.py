"""A memory of each class: unit features of earlier batches, the oldest of a class giving way to the newest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ClassMemory", "region_means", "sampled_positions"]


class ClassMemory(nn.Module):
    """A queue of `size` unit vectors for each of C classes, part of the state; of random directions at first.

    Nothing is read from the device: what is no feature is written into one more place behind each queue.

    Args:
        num_classes: C.
        size: R features of each class.
        channels: D.
        generator: draws the first directions.
    """

    queue: Tensor
    place: Tensor

    def __init__(self, num_classes: int, size: int, channels: int, *, generator: torch.Generator) -> None:
        super().__init__()
        first = torch.randn(num_classes, size + 1, channels, generator=generator)
        self.register_buffer("queue", F.normalize(first, dim=2))  # (C,R+1,D)
        self.register_buffer("place", torch.zeros(num_classes, dtype=torch.int64))  # (C,) where the next one goes

    @property
    def size(self) -> int:
        """R."""
        return self.queue.shape[1] - 1

    def drawn(self, count: int) -> Tensor:
        """(C*K,D) K = min(R, count // C + 1) of every class, at the same places of each queue."""
        each = min(self.size, count // len(self.queue) + 1)
        places = torch.randperm(self.size, device=self.queue.device)[:each]
        return self.queue[:, places].flatten(0, 1)

    def remember_(self, features: Tensor, are_there: Tensor) -> None:
        """Put features behind those of their classes.

        Args:
            features: (N,C,D) N candidates of each class, in order; their lengths do not matter.
            are_there: (N,C) which of them there are.
        """
        with torch.no_grad():
            rank = are_there.long().cumsum(dim=0) - 1  # (N,C) how many of the class go before
            is_kept = are_there & (rank < self.size)
            places = torch.where(is_kept, (self.place + rank) % self.size, self.size)
            classes = torch.arange(len(self.queue), device=features.device).expand_as(places)
            unit = F.normalize(features.detach().to(self.queue.dtype), dim=2)
            self.queue[classes, places] = torch.where(is_kept[..., None], unit, self.queue[:, -1])
            self.place.add_(is_kept.sum(dim=0)).remainder_(self.size)


def region_means(features: Tensor, labels: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean feature of each class in each image, of unit features, and which there are.

    Args:
        features: (N,D,P) unit features at P positions.
        labels: (N,P) class numbers; one outside 0..C-1 is none.
        num_classes: C.

    Returns:
        (N,C,D) and (N,C).
    """
    is_class = _is_class(labels, num_classes).to(features.dtype)  # (N,C,P)
    counts = is_class.sum(dim=2)
    means = torch.bmm(is_class, features.mT) / counts.clamp_min(1)[..., None]
    return means, counts > 0


def sampled_positions(features: Tensor, labels: Tensor, *, num_classes: int, most: int) -> tuple[Tensor, Tensor]:
    """Features at up to `most` positions of each class in each image, drawn without replacement among its own.

    Args:
        features: (N,D,P).
        labels: as in `region_means`.
        num_classes: C.
        most: K positions.

    Returns:
        (N*K,C,D) candidates, image by image, and (N*K,C) which there are.
    """
    is_class = _is_class(labels, num_classes)
    drawn = torch.rand(labels.shape, device=labels.device)[:, None].masked_fill(~is_class, -1.0)  # (N,C,P)
    values, places = drawn.topk(min(most, labels.shape[1]), dim=2)  # (N,C,K)
    index = places.flatten(1)[:, None].expand(-1, features.shape[1], -1)
    found = features.gather(2, index).view(*features.shape[:2], *places.shape[1:])  # (N,D,C,K)
    return found.permute(0, 3, 2, 1).flatten(0, 1), (values >= 0).transpose(1, 2).flatten(0, 1)


def _is_class(labels: Tensor, num_classes: int) -> Tensor:
    return labels[:, None] == torch.arange(num_classes, device=labels.device)[:, None]
