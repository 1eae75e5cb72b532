"""What follows crop and flip, on whole batches: RandAugment or AutoAugment, colour jitter and erasing.

The image-by-image way of `after_crop.py`, for images that are on the device. Draws come from hashes of (seed, view,
copy, sample), and no row of a batch changes another, so pixels are a function of these four alone. They are not those
of workers, which draw other numbers: data.augment_on is therefore a setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.core.image_size import ImageSize
from understudy.data.augment.batched_erasing import NUM_ERASED, drawn_rectangles, erased
from understudy.data.augment.batched_jitter import NUM_JITTERED, drawn_jitter, jittered
from understudy.data.augment.batched_policy import BatchedPolicy, policy_problem
from understudy.data.augment.config import AugmentParts
from understudy.data.augment.policies import fill_colour
from understudy.utils.hashing import hashed_tensor

__all__ = ["BatchedParts", "batched_problem", "scaled_bicubically"]


def batched_problem(parts: AugmentParts) -> str | None:
    """Why these parts cannot be done on whole batches; None: they can."""
    return None if parts.policy is None else policy_problem(parts.policy)


@dataclass(frozen=True, slots=True, eq=False)
class BatchedParts:
    """RandAugment or AutoAugment, colour jitter and erasing, those that are on, in this order.

    Attributes:
        parts: settings, ones that have no `batched_problem`.
        mean: (D,1,1) of the student's normalisation in [0,1], on the device of the images.
        std: likewise.
        fill: (D,) uint8, the colour of what is moved in.
    """

    parts: AugmentParts
    mean: Tensor
    std: Tensor
    fill: Tensor

    @classmethod
    def on(cls, device: torch.device, parts: AugmentParts, mean: Sequence[float], std: Sequence[float]) -> BatchedParts:
        """The parts for images on a device; `mean` and `std` as of `with_parts`."""
        shift, scale = (torch.tensor(list(of), device=device).view(-1, 1, 1) for of in (mean, std))
        return cls(parts, shift, scale, torch.tensor(fill_colour(mean), dtype=torch.uint8, device=device))

    @property
    def works_on_bytes(self) -> bool:
        """Whether images have to be of 8 bits, which policies and colour jitter are about."""
        return self.parts.policy is not None or self.parts.color_jitter > 0

    def drawn(self, indices: Tensor, *, seed: int, view: int, copies: int | Tensor, size: ImageSize) -> Tensor:
        """(1+P,...) int64 on the CPU, everything that is drawn; `copies` and `indices` broadcast against each other.

        Args:
            indices: int64 places in the data set, on the CPU; with seed, view and copy they decide everything.
            seed: of the run.
            view: version of the augmentation.
            copies: int64 or one number.
            size: of the student's images, whose shape erased rectangles are of.
        """
        key, parts = hashed_tensor(seed, view, copies, indices), self.parts
        is_cubic = hashed_tensor(key, "scaling") % 2
        if parts.interpolation != "random":
            is_cubic = torch.full_like(is_cubic, parts.interpolation == "bicubic")
        found = [is_cubic[None]]
        if parts.policy is not None:
            found.append(BatchedPolicy(parts.policy, parts.interpolation).drawn(key))
        if parts.color_jitter:
            found.append(drawn_jitter(key, parts.color_jitter))
        if parts.erasing:
            found.append(drawn_rectangles(key, parts.erasing, size))
        return torch.cat(found)

    def of(self, pictures: Sequence[Tensor], numbers: Tensor, *, in_groups: bool | None = None) -> list[Tensor]:
        """The same images at one or two sizes, after what was drawn.

        Args:
            pictures: (B,D,H,W) each, uint8 where `works_on_bytes`, else of that or float32 in [0,1].
            numbers: (1+P,B) of `drawn`.
            in_groups: see `changed`; None: where the numbers are on the CPU, so that reading them waits for nothing.

        Returns:
            As many, of the same dtype; float32 where `erasing` is on.
        """
        parts, shown = self.parts, list(pictures)
        in_groups = numbers.device.type == "cpu" if in_groups is None else in_groups
        after_jitter = len(numbers) - 1 - NUM_ERASED * (parts.erasing > 0)
        after_policy = after_jitter - NUM_JITTERED * (parts.color_jitter > 0)
        policy, jitter, erasing = numbers[1:].tensor_split((after_policy, after_jitter))
        if parts.policy is not None:
            of_policy = BatchedPolicy(parts.policy, parts.interpolation)
            shown = [of_policy.of(images, policy, self.fill, in_groups=in_groups) for images in shown]
        if parts.color_jitter:
            shown = [jittered(images, jitter, in_groups=in_groups) for images in shown]
        if parts.erasing:
            shown = erased(shown, erasing, parts.erase_mode, self.mean, self.std, in_groups=in_groups)
        return shown


def scaled_bicubically(numbers: Tensor) -> Tensor:
    """(B,) bool: which images are scaled so before all else, by (1+P,B) of `BatchedParts.drawn`; others bilinearly."""
    return numbers[0] == 1
