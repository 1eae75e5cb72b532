"""The plan of an epoch: order, view, steps, and this process's share of each batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from understudy.data.config import DataConfig
from understudy.utils.errors import UserError
from understudy.utils.hashing import hashed

__all__ = ["EpochPlan", "Share", "balanced_order", "epoch_order", "num_steps", "view_of"]

Position = TypeVar("Position", int, Tensor)


@dataclass(frozen=True, slots=True)
class Share:
    """The contiguous part that one of `world_size` processes takes of any rows; the parts in turn are all of them."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be in 0..{self.world_size - 1}, got {self.rank}")

    def of(self, rows: range) -> range:
        """Its part; sizes differ by one at most, and are known for every rank from the number of rows."""
        start, stop = (len(rows) * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return rows[start:stop]


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """The course of an epoch: the same global batches for any number of processes.

    Attributes:
        num_samples: N.
        batch_size: samples a step, over all processes; the last step of an epoch may have fewer.
        num_steps: batches an epoch.
        seed: decides the order, and with view, copy and sample the augmentation.
        num_views: epochs after which the augmentation repeats; None: never.
        num_copies: differently augmented images of each sample in a batch.
        share: this process's part of every batch.
        num_repeats: differently augmented views of a sample that follow each other; an epoch of N images then shows
            N / num_repeats of the samples (Hoffer et al., "Augment Your Batch", CVPR 2020; DeiT takes 3).
        labels: (N,) of all samples, where classes are drawn equally often; None: every sample comes once.
    """

    num_samples: int
    batch_size: int
    num_steps: int
    seed: int
    num_views: int | None
    num_copies: int
    share: Share
    num_repeats: int = 1
    labels: Tensor | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls,
        num_samples: int,
        config: DataConfig,
        *,
        seed: int,
        num_views: int | None = None,
        share: Share,
        labels: Tensor | None = None,
    ) -> EpochPlan:
        """The plan of these settings; `labels` (N,) are wanted for data.sampling: balanced.

        A last batch that has not one row for every process is left out, on all of them alike.

        Raises:
            UserError: no batch is left, or classes are to be drawn equally often of samples without labels.
        """
        steps = num_steps(num_samples, config)
        last = num_samples - (steps - 1) * config.batch_size
        steps -= last < share.world_size
        if steps == 0 or config.batch_size < share.world_size:
            raise UserError(
                f"{share.world_size} processes need a row each of every batch: {num_samples} images, data.batch_size "
                f"{config.batch_size} (over all processes); raise data.batch_size or start fewer"
            )
        copies = 2 if config.copies == "pairs" else 1
        balanced = labels if config.sampling == "balanced" else None
        if balanced is not None and (balanced < 0).any():
            raise UserError(
                "data.sampling: balanced draws classes equally often, and some training images have no label; leave "
                "out data.sampling, or these images"
            )
        return cls(num_samples, config.batch_size, steps, seed, num_views, copies, share, config.repeats, balanced)

    def order(self, epoch: int) -> Tensor:
        """(N,) the samples of an epoch (1, 2, ...) in turn.

        Where samples are repeated, an epoch shows some of them alone, so a view that comes again brings its own.
        """
        if self.num_repeats > 1:
            epoch = self.view(epoch) + 1
        if self.labels is not None:
            order = balanced_order(self.labels, seed=self.seed, epoch=epoch)
        else:
            order = epoch_order(self.num_samples, seed=self.seed, epoch=epoch)
        return order if self.num_repeats == 1 else order.repeat_interleave(self.num_repeats)[: self.num_samples]

    def repeat_at(self, positions: Position) -> Position:
        """Which view of its sample stands at a place of an epoch, or at each of some; augmentation goes by it."""
        return positions % self.num_repeats

    def view(self, epoch: int) -> int:
        """The version of the augmentation that an epoch shows."""
        return view_of(epoch, self.num_views)

    def rows(self, step: int) -> range:
        """This process's places in an epoch's order at a step (0, 1, ...)."""
        first = step * self.batch_size
        return self.share.of(range(first, min(first + self.batch_size, self.num_samples)))


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
