"""The order of an epoch, the view it shows, and the steps it takes."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.config import UserError
from understudy.data.config import DataConfig
from understudy.hashing import hashed

__all__ = ["balanced_order", "epoch_order", "num_steps", "view_of"]


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> Tensor:
    """(N,) a permutation of 0..N-1 that depends on seed and epoch alone."""
    generator = torch.Generator().manual_seed(hashed(seed, "order", epoch))
    return torch.randperm(num_samples, generator=generator)


def balanced_order(labels: Tensor, *, seed: int, epoch: int) -> Tensor:
    """(N,) samples of an epoch, in which every class comes equally often, give or take one; as `epoch_order` otherwise.

    Of a class with fewer samples than its share each comes equally often, give or take one; of one with more, so many
    are drawn without repetition, others in another epoch.

    Args:
        labels: (N,) class numbers; classes without samples take no share.
        seed: of the run.
        epoch: 1, 2, ...
    """
    generator = torch.Generator().manual_seed(hashed(seed, "balanced", epoch))
    classes = torch.unique(labels)
    counts = torch.full((len(classes),), len(labels) // len(classes))
    counts[torch.randperm(len(classes), generator=generator)[: len(labels) % len(classes)]] += 1
    drawn = []
    for label, count in zip(classes, counts.tolist(), strict=True):
        members = (labels == label).nonzero().flatten()
        turns = [members[torch.randperm(len(members), generator=generator)] for _ in range(-(-count // len(members)))]
        drawn.append(torch.cat(turns)[:count] if turns else members[:0])
    return torch.cat(drawn)[torch.randperm(len(labels), generator=generator)]


def view_of(epoch: int, num_views: int | None) -> int:
    """The version of the augmentation that epoch 1, 2, ... shows: a new one each, or `num_views` in turn."""
    return epoch - 1 if num_views is None else (epoch - 1) % num_views


def num_steps(num_samples: int, config: DataConfig) -> int:
    """Batches an epoch.

    Raises:
        UserError: drop_last leaves none.
    """
    if not config.drop_last:
        return -(-num_samples // config.batch_size)
    if num_samples < config.batch_size:
        raise UserError(
            f"data.drop_last leaves no batch: {num_samples} images, data.batch_size {config.batch_size}; lower one"
        )
    return num_samples // config.batch_size
