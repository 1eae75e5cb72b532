"""The order of an epoch, the view it shows, and the steps it takes."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.config import UserError
from understudy.data.config import DataConfig
from understudy.hashing import hashed

__all__ = ["epoch_order", "num_steps", "view_of"]


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> Tensor:
    """(N,) a permutation of 0..N-1 that depends on seed and epoch alone."""
    generator = torch.Generator().manual_seed(hashed(seed, "order", epoch))
    return torch.randperm(num_samples, generator=generator)


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
