"""Mixup and CutMix: timm's, on whole batches where they are, decided by seed, epoch, step and process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from torch import Tensor

from understudy.core.batch import Batch
from understudy.data.augment.config import MixConfig
from understudy.data.loaders.base import TrainLoader
from understudy.utils.hashing import hashed
from understudy.utils.seeding import globally_seeded

__all__ = ["MixedBatches", "mixed"]


def mixed(batch: Batch, mixup: Mixup, *, seed: int) -> Batch:
    """Row i mixed with row B-1-i, images and labels, for student and teacher alike.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix", ICCV 2019; drawn and
    applied by timm. A teacher at another size sees the student's shares and boxes, scaled. timm wants an even
    number of rows: of an odd one, the middle row meets itself and so stays as it is.

    Args:
        batch: targets (B,) of 0..C-1.
        mixup: timm's, without label smoothing: the task smooths the mixed labels, which comes to the same.
        seed: of everything drawn here.

    Returns:
        The batch with targets (B,C), float32. Rows keep the index of the image that they started from.
    """
    assert batch.targets.ndim == 1
    rows = _even(batch.images)
    with globally_seeded(seed):
        images, targets = mixup(rows, _even(batch.targets))
    teacher_images = None
    if batch.teacher_images is not None:
        others = _even(batch.teacher_images)
        own = F.interpolate(_own_shares(rows, mixup, seed), size=others.shape[-2:], mode="nearest")
        teacher_images = others * own + others.flip(0) * (1 - own)
    return replace(
        batch,
        images=_as_before(images, batch),
        teacher_images=None if teacher_images is None else _as_before(teacher_images, batch),
        targets=_as_before(targets, batch),
    )


class MixedBatches:
    """A TrainLoader whose every batch is mixed.

    What is drawn depends on seed, epoch, step and rank, not on the samples: other than the augmentation, it differs
    between one process and several. Where views repeat, whole epochs do: a view is an image with its partner and their
    shares, so that it can be told by seed, view and sample alone, as a bank does.

    Args:
        loader: of (B,) labels 0..C-1.
        config: what is mixed, and how.
        num_classes: C.
        seed: of the run.
        rank: of this process.
        num_views: epochs after which they repeat; None: never.
    """

    def __init__(
        self,
        loader: TrainLoader,
        config: MixConfig,
        *,
        num_classes: int,
        seed: int,
        rank: int = 0,
        num_views: int | None = None,
    ) -> None:
        self._loader = loader
        self._num_views = num_views
        self._mixup = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            prob=config.prob,
            switch_prob=config.switch_prob,
            mode=config.mode,
            label_smoothing=0.0,
            num_classes=num_classes,
        )
        self._seed = seed
        self._rank = rank
        self.batch_size = loader.batch_size
        self.steps_per_epoch = loader.steps_per_epoch
        self.num_samples = loader.num_samples

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each with the reason."""
        return self._loader.skipped

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The loader's batches, mixed."""
        epoch = epoch if self._num_views is None else (epoch - 1) % self._num_views + 1
        for step, batch in enumerate(self._loader.epoch(epoch, start_step), start_step):
            yield mixed(batch, self._mixup, seed=hashed(self._seed, "mix", epoch, step, self._rank))


def _own_shares(rows: Tensor, mixup: Mixup, seed: int) -> Tensor:
    """(B,1,H,W) how much of each pixel is the row's own: the same draws, on one half of ones and one of zeros."""
    is_first = (torch.arange(len(rows), device=rows.device) < len(rows) // 2).view(-1, 1, 1, 1)
    ones = is_first.to(rows.dtype).expand(-1, 1, *rows.shape[-2:]).contiguous()
    with globally_seeded(seed):
        shares, _ = mixup(ones, is_first.flatten().long())
    return torch.where(is_first, shares, 1 - shares)


def _even(rows: Tensor) -> Tensor:
    """A copy, as timm mixes in place; of an odd number of rows, the middle one comes twice."""
    middle = len(rows) // 2
    return rows.clone() if len(rows) % 2 == 0 else torch.cat([rows[: middle + 1], rows[middle:]])


def _as_before(rows: Tensor, batch: Batch) -> Tensor:
    middle = len(batch.targets) // 2
    return rows if len(batch.targets) % 2 == 0 else torch.cat([rows[: middle + 1], rows[middle + 2 :]])
