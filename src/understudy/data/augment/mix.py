"""Mixup and CutMix: timm's draws, decided by seed, epoch, step and process, applied to whole batches where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup, cutmix_bbox_and_lam, one_hot
from torch import Tensor

from understudy.core.batch import Batch, PlannedBatch
from understudy.core.image_size import ImageSize, height_and_width
from understudy.data.augment.config import MixConfig
from understudy.data.loaders.base import TrainLoader, planned_batches
from understudy.data.loaders.plan import EpochPlan
from understudy.utils.hashing import hashed
from understudy.utils.seeding import globally_seeded

__all__ = ["MixedBatches", "mixed"]

NUM_SHARES = 5  # rows of `Mixing.shares`
NUM_MIXING = NUM_SHARES + 4  # with the boxes


@dataclass(frozen=True, slots=True)
class Mixing:
    """How each row of a batch is mixed with its partner, row B-1-i.

    Attributes:
        shares: (5,B) floats: how much of a pixel outside the box is the row's own and how much its partner's, the
            same of the label, and how much of the teacher's pixels is the row's own.
        boxes: (4,B) int64, top, bottom, left and right of what is the partner's alone; all 0 where nothing is.
        has_shares, has_boxes: whether any row may have other shares than 1 and 0 of its pixels, and any a box.
    """

    shares: Tensor
    boxes: Tensor
    has_shares: bool = True
    has_boxes: bool = True

    @classmethod
    def drawn(cls, mixup: Mixup, num_rows: int, size: tuple[int, int], *, seed: int) -> Mixing:
        """What timm would do to so many rows (H, W), by its own draws in its own order.

        timm wants an even number of rows: an odd one is drawn for with its middle row twice, which meets itself.
        """
        half = (num_rows + 1) // 2
        with globally_seeded(seed):
            if mixup.mode == "batch":
                lam, is_cut = mixup._params_per_batch()  # type: ignore[no-untyped-call]
                rows = [_one_drawn(mixup, lam, is_cut, size)]  # of all
            else:
                num_drawn = half if mixup.mode == "pair" else 2 * half
                lams, are_cut = mixup._params_per_elem(num_drawn)  # type: ignore[no-untyped-call]
                rows = [_one_drawn(mixup, lam, is_cut, size) for lam, is_cut in zip(lams, are_cut, strict=True)]
                if mixup.mode == "pair":
                    rows += rows[::-1]
                if num_rows % 2:
                    del rows[half]
        shares = torch.tensor([row.shares for row in rows], dtype=torch.float64).T.expand(-1, num_rows)
        # Rows of the second half show what the partners of the first leave: another number in its last digit.
        seen = torch.cat([shares[0, :half], (1 - shares[1, half:].float()).double()])
        boxes = torch.tensor([row.box for row in rows]).T.expand(-1, num_rows)
        has_shares, has_boxes = any(row.shares[0] != 1 for row in rows), any(any(row.box) for row in rows)
        return cls(torch.cat([shares, seen[None]]), boxes, has_shares=has_shares, has_boxes=has_boxes)

    def packed(self) -> Tensor:
        """(9,B) int64, shares by the bits of a float32; Apple's GPUs (mps) have no more."""
        return torch.cat([self.shares.float().view(torch.int32).long(), self.boxes])

    @classmethod
    def unpacked(cls, rows: Tensor, *, has_shares: bool, has_boxes: bool) -> Mixing:
        """That of (9,B) `packed`."""
        return cls(rows[:NUM_SHARES].int().view(torch.float32), rows[NUM_SHARES:], has_shares, has_boxes)

    def of(self, batch: Batch, num_classes: int) -> Batch:
        """The batch mixed, a pure function of tensors of its device, of which nothing is read.

        Args:
            batch: targets (B,) of 0..C-1.
            num_classes: C.
        """
        shares = self.shares.to(batch.images.dtype).to(batch.images.device, non_blocking=True)
        own, other, own_label, other_label, own_seen = shares.unbind()
        flipped = batch.images.flip(0)
        images, inside = batch.images, None
        if self.has_shares:
            images = (images * _each(own)).add_(flipped * _each(other))
        if self.has_boxes:
            inside = self._inside(batch.images)
            images = torch.where(inside, flipped, images)
        targets = one_hot(batch.targets, num_classes)  # type: ignore[no-untyped-call]
        targets = targets * own_label[:, None] + targets.flip(0) * other_label[:, None]
        return replace(
            batch, images=images, targets=targets, teacher_images=_seen_by_teacher(batch, _each(own_seen), inside)
        )

    def _inside(self, images: Tensor) -> Tensor:
        """(B,1,H,W) which pixels of images (B,3,H,W) are in the boxes."""
        boxes, (height, width) = self.boxes.to(images.device, non_blocking=True)[..., None], images.shape[-2:]
        places = torch.arange(max(height, width), device=images.device)
        rows, columns = (places >= boxes[::2]) & (places < boxes[1::2])
        inside: Tensor = rows[:, :height, None] & columns[:, None, :width]
        return inside[:, None]


def mixed(batch: Batch, mixup: Mixup, *, seed: int) -> Batch:
    """Row i mixed with row B-1-i, images and labels, for student and teacher alike.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix", ICCV 2019; drawn by
    timm, and its pixels and labels bit for bit. A teacher at another size sees the student's shares and boxes, scaled.

    Args:
        batch: targets (B,) of 0..C-1.
        mixup: timm's, without label smoothing: the task smooths the mixed labels, which comes to the same.
        seed: of everything drawn here.

    Returns:
        The batch with targets (B,C), float32. Rows keep the index of the image that they started from.
    """
    assert batch.targets.ndim == 1
    height, width = batch.images.shape[-2:]
    mixing = Mixing.drawn(mixup, len(batch.images), (height, width), seed=seed)
    return mixing.of(batch, mixup.num_classes)


class MixedBatches:
    """A TrainLoader whose every batch is mixed.

    What is drawn depends on seed, epoch, step and rank, not on the samples: other than the augmentation, it differs
    between one process and several. Where views repeat, whole epochs do: a view is an image with its partner and their
    shares, so that it can be told by seed, view and sample alone, as a bank does.

    Args:
        loader: of (B,) labels 0..C-1.
        config: what is mixed, and how.
        plan: the loader's.
        num_classes: C.
        image_size: of the student's images.
    """

    def __init__(
        self, loader: TrainLoader, config: MixConfig, plan: EpochPlan, *, num_classes: int, image_size: ImageSize
    ) -> None:
        self._loader = loader
        self._plan = plan
        self._mixup = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            prob=config.prob,
            switch_prob=config.switch_prob,
            mode=config.mode,
            label_smoothing=0.0,
            num_classes=num_classes,
        )
        self._size = height_and_width(image_size)
        self.batch_size = loader.batch_size
        self.steps_per_epoch = loader.steps_per_epoch
        self.num_samples = loader.num_samples

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each with the reason."""
        return self._loader.skipped

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The loader's batches, mixed."""
        return (batch.made() for batch in self.planned(epoch, start_step))

    def planned(self, epoch: int, start_step: int = 0) -> Iterator[Batch | PlannedBatch]:
        """The same, where the loader can before they are made: what is drawn for them is among their keys."""
        epoch = self._plan.view(epoch) + 1
        for step, batch in enumerate(planned_batches(self._loader, epoch, start_step), start_step):
            seed = hashed(self._plan.seed, "mix", epoch, step, self._plan.share.rank)
            if isinstance(batch, PlannedBatch):
                yield self._to_be_mixed(batch, seed)
            else:
                yield mixed(batch, self._mixup, seed=seed)

    def _to_be_mixed(self, batch: PlannedBatch, seed: int) -> PlannedBatch:
        mixing = Mixing.drawn(self._mixup, batch.num_images, self._size, seed=seed)
        drawn = mixing.packed().to(batch.keys.device, non_blocking=True)
        make = _MakeMixed(
            batch.make,
            batch.then,
            self._mixup.num_classes,
            has_shares=self._mixup.mixup_alpha > 0,
            has_boxes=self._mixup.cutmix_alpha > 0,
        )
        return PlannedBatch(torch.cat([drawn, batch.keys]), make, batch.view)


@dataclass(frozen=True, slots=True)
class _MakeMixed:
    """Makes a mixed batch of keys: how it is mixed, then those that it is made of. What may be drawn is in it."""

    make: Callable[[Tensor], Batch]
    then: tuple[Callable[[Batch], Batch], ...]
    num_classes: int
    has_shares: bool
    has_boxes: bool

    def __call__(self, keys: Tensor) -> Batch:
        batch = PlannedBatch(keys[NUM_MIXING:], self.make, then=self.then).made()
        mixing = Mixing.unpacked(keys[:NUM_MIXING], has_shares=self.has_shares, has_boxes=self.has_boxes)
        return mixing.of(batch, self.num_classes)


@dataclass(frozen=True, slots=True)
class _Row:
    """What is drawn for a row: the first four of `Mixing.shares`, and its box."""

    shares: tuple[float, ...]
    box: tuple[int, ...] = (0, 0, 0, 0)


def _one_drawn(mixup: Mixup, lam: float, is_cut: bool, size: tuple[int, int]) -> _Row:
    """The row of one lambda, its box being drawn where it is cut.

    Args:
        mixup: timm's.
        lam: a float of a whole batch, numpy's float32 of single rows: timm goes on in as many digits.
        is_cut: whether by CutMix, not by Mixup.
        size: (H, W).
    """
    if lam == 1 or not is_cut:
        return _Row((float(lam), float(1 - lam), float(lam), float(1 - lam)))
    box, kept = cutmix_bbox_and_lam(  # type: ignore[no-untyped-call]
        size, lam, ratio_minmax=mixup.cutmix_minmax, correct_lam=mixup.correct_lam
    )
    kept = type(lam)(kept)
    return _Row((1.0, 0.0, float(kept), float(1 - kept)), tuple(int(side) for side in box))


def _seen_by_teacher(batch: Batch, own: Tensor, inside: Tensor | None) -> Tensor | None:
    """Its images at their own size, mixed by the student's shares (B,1,1,1) and boxes (B,1,H,W); None: it has none."""
    others = batch.teacher_images
    if others is None:
        return None
    if inside is not None:
        own = F.interpolate(torch.where(inside, 0.0, own), size=others.shape[-2:], mode="nearest")
    return others * own + others.flip(0) * (1 - own)


def _each(numbers: Tensor) -> Tensor:
    """(B,) as (B,1,1,1)."""
    return numbers[:, None, None, None]
