"""Batches of large images, decoded and augmented whole on the device: nvJPEG, and two matrix products a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from understudy.core.batch import Batch
from understudy.core.image_size import ImageSize
from understudy.data.augment.batched_crops import Parts
from understudy.data.augment.batched_parts import BatchedParts, batched_problem, scaled_bicubically
from understudy.data.augment.config import Augment, AugmentParts, CropFlip, ResizedCrop
from understudy.data.augment.crops import second_augment_for
from understudy.data.config import DataConfig
from understudy.data.loaders.plan import EpochPlan
from understudy.data.resized import ResizedSource
from understudy.data.sources.base import Source, as_unit, images_in_memory, small_size
from understudy.data.sources.boxed import has_boxes
from understudy.data.sources.decoding import BadImageError
from understudy.data.sources.found import BadImages
from understudy.data.sources.masked import has_masks
from understudy.data.sources.streamed import StreamedSource
from understudy.utils.errors import UserError

__all__ = ["DeviceTrainLoader", "augment_problem", "device_problem"]


def device_problem(source: Source, augment: Augment, config: DataConfig, device: torch.device) -> str | None:
    """Why these images cannot be decoded and augmented on the device, with the way out; None: they can."""
    if device.type != "cuda":
        return f"that takes CUDA, and this run is on the {device.type}"
    if not isinstance(augment, ResizedCrop):
        return f"that takes data.augment: resized_crop, and this is {augment.name}"
    if config.second_augment is not None:
        return "second_augment is done in workers; leave it out, and both views are augmented alike"
    if not isinstance(source, ResizedSource):
        return "that takes images that are kept as JPEG; set data.cache: resized"
    if augment.has_parts and config.augment_on == "workers":
        return (
            "RandAugment, AutoAugment, colour jitter and erasing are done in workers; set data.augment_on: device, or "
            "leave them out of data.augment"
        )
    return None


def augment_problem(source: Source, augment: Augment, config: DataConfig, device: torch.device) -> str | None:
    """Why these images cannot be augmented on the device, with the way out; None: they can, or are there anyhow."""
    problem, second = _augment_problem(source, augment, config, device), second_augment_for(config, source)
    if problem or second is None:
        return problem
    return _unlike_problem(augment, second) or _augment_problem(source, second, config, device)


def _augment_problem(source: Source, augment: Augment, config: DataConfig, device: torch.device) -> str | None:
    if has_masks(source) or has_boxes(source):
        return "images with masks or boxes are augmented in workers"
    is_small = small_size(source, takes_rectangles=config.takes_rectangles) is not None
    is_there_anyhow = is_small and isinstance(augment, CropFlip) and not augment.needs_each_image
    if not isinstance(augment, AugmentParts) or is_there_anyhow:
        return None
    if device.type == "mps":
        return "that takes numbers of 64 bits, which Apple's GPUs do not have"
    if problem := batched_problem(augment):
        return problem
    if isinstance(source, StreamedSource):
        return "streamed images are augmented in workers"
    if not is_small:
        return (
            None
            if config.decode == "gpu"
            else (
                "workers decode these images; large ones take data.decode: gpu and data.cache: resized, small ones of "
                "one size are kept in memory under data.cache: auto"
            )
        )
    images = images_in_memory(source)
    needs_bytes = augment.color_jitter > 0 or isinstance(augment, ResizedCrop)
    if needs_bytes and images is not None and images.dtype != torch.uint8:
        return f"colour jitter and resized_crop of batches take 8-bit images, and these are {images.dtype}"
    return None


def _unlike_problem(augment: Augment, second: Augment) -> str | None:
    """Why pairs of these two augmentations cannot be made on the device, with the way out; None: they can.

    There both views show windows of one kind, and what follows the crop is done to the second one alone.
    """
    crops = [
        {key: value for key, value in one.model_dump().items() if key not in AugmentParts.model_fields}
        for one in (augment, second)
    ]
    is_plain = isinstance(augment, AugmentParts) and not augment.needs_each_image
    if crops[0] == crops[1] and is_plain and isinstance(second, AugmentParts) and second.interpolation == "bilinear":
        return None
    return (
        "a second_augment there is data.augment with parts (RandAugment, colour jitter, erasing) on top of it, which "
        "data.augment itself has none of, and both are scaled bilinearly"
    )


class DeviceTrainLoader:
    """A TrainLoader of images that are kept as JPEG in memory, for `data.decode: gpu`; it has no workers.

    Pixels are a function of seed, view, copy and sample as ever. They are not those of workers: parts are drawn from
    hashes as whole batches, other decoders round otherwise, and nothing is rounded to 8 bits after scaling.

    Args:
        source: of the files.
        augment: which parts of images are shown.
        parts: what follows; None: nothing.
        plan: of the epochs.
        image_size: of the student's images.
        teacher_size: of the teacher's, the same part; None where equal.
        must_stop: whether an image that could not be read ends the run; else it gives way to the next of the order.
        device: where images are decoded and cropped.
    """

    def __init__(
        self,
        source: ResizedSource,
        augment: ResizedCrop,
        plan: EpochPlan,
        *,
        parts: BatchedParts | None = None,
        image_size: ImageSize,
        teacher_size: ImageSize | None,
        must_stop: bool,
        device: torch.device,
    ) -> None:
        self.batch_size = plan.batch_size
        self.num_samples = plan.num_samples
        self.steps_per_epoch = plan.num_steps
        self._source = source
        self._augment = augment
        self._parts = parts
        self._plan = plan
        self._sizes = [image_size] if teacher_size is None else [image_size, teacher_size]
        self._must_stop = must_stop
        self._device = device
        self._skipped: dict[str, None] = {}

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each once, with the reason."""
        return tuple(self._skipped)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (1, 2, ...) from step `start_step` on.

        Raises:
            UserError: an image cannot be read and the run is to stop then, or none can be.
        """
        plan, order = self._plan, self._plan.order(epoch).tolist()
        for step in range(start_step, self.steps_per_epoch):
            places = list(plan.rows(step))
            numbers = torch.tensor([self._readable(order, place) for place in places] * plan.num_copies)
            copies = torch.arange(plan.num_copies).repeat_interleave(len(places))
            draws = copies + plan.repeat_at(torch.tensor(places * plan.num_copies))  # one of the two is 0
            yield self._batch(numbers, draws, plan.view(epoch))

    def _batch(self, numbers: Tensor, draws: Tensor, view: int) -> Batch:
        pictures = self._decoded(numbers.tolist())
        sides = torch.tensor([picture.shape[-2:] for picture in pictures])
        by: dict[str, Any] = {"seed": self._plan.seed, "view": view, "copies": draws, "size": self._sizes[0]}
        parts = Parts.drawn(numbers, sides, self._augment, **by)
        if self._parts is None:
            images = parts.of(pictures, self._sizes)
        else:
            then = self._parts.drawn(numbers, **by)
            is_cubic = None if self._augment.interpolation == "bilinear" else scaled_bicubically(then)
            images = parts.of(pictures, self._sizes, is_cubic=is_cubic, as_bytes=self._parts.works_on_bytes)
            images = [as_unit(shown) for shown in self._parts.of(images, then)]
        there = draws.to(self._device, non_blocking=True)
        return Batch(
            images=images[0],
            teacher_images=images[1] if len(images) > 1 else None,
            targets=self._source.labels[numbers].to(self._device, non_blocking=True),
            indices=numbers.to(self._device, non_blocking=True),
            copies=there if self._plan.num_copies > 1 else None,
            view=view,
            repeats=there if self._plan.num_repeats > 1 else None,
        )

    def _decoded(self, numbers: Sequence[int]) -> list[Tensor]:
        """(3,H,W) uint8 each, on the device; a sample that comes twice is decoded once."""
        once = dict.fromkeys(numbers)
        files = [self._source.file(number) for number in once]
        found: list[Tensor] = decode_jpeg(files, mode=ImageReadMode.UNCHANGED, device=self._device)
        there = dict(zip(once, found, strict=True))
        return [there[number] for number in numbers]

    def _readable(self, order: Sequence[int], place: int) -> int:
        """The sample at a place of the order, or the next one that could be read."""
        for further in range(len(order)):
            number = order[(place + further) % len(order)]
            try:
                self._source.file(number)
            except BadImageError as error:
                self._skipped[str(error)] = None
                if self._must_stop:
                    raise BadImages([str(error)], ("image cannot be read", "images cannot be read")).error() from None
                continue
            return number
        raise UserError(f"none of the {len(order)} training images can be read: {self.skipped[0]}")
