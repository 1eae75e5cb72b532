"""train_loader and eval_loader: the right kind of loader for the images at hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from understudy.core.image_size import ImageSize, checked_size
from understudy.data.augment.batched_parts import BatchedParts
from understudy.data.augment.boxes import box_rendering, check_boxed
from understudy.data.augment.config import Augment, AugmentParts, CropFlip, NoAugment, ResizedCrop, ScaleCrop
from understudy.data.augment.copies import RotatedCopies, refuse_to_turn
from understudy.data.augment.crops import (
    Rendering,
    augment_for,
    first_samples,
    second_augment_for,
    takes_rectangles,
)
from understudy.data.augment.dense import DenseRendering, check_dense
from understudy.data.augment.mix import MixedBatches
from understudy.data.config import DataConfig
from understudy.data.loaders.base import EvalLoader, TrainLoader
from understudy.data.loaders.boxes import BoxEvalLoader, BoxTrainLoader, images_at_once
from understudy.data.loaders.dense import DenseEvalLoader, DenseTrainLoader
from understudy.data.loaders.disk import StreamEvalLoader, StreamTrainLoader
from understudy.data.loaders.hub import HubEvalLoader, HubTrainLoader
from understudy.data.loaders.memory import MemoryEvalLoader, MemoryTrainLoader
from understudy.data.loaders.on_device import DeviceTrainLoader, augment_problem, device_problem
from understudy.data.loaders.plain import PlainLoader, from_plain_loader
from understudy.data.loaders.plan import EpochPlan, Share
from understudy.data.loaders.workers import num_workers_for
from understudy.data.resized import ResizedSource
from understudy.data.sources.base import Source, small_size
from understudy.data.sources.boxed import has_boxes
from understudy.data.sources.masked import has_masks
from understudy.data.sources.streamed import StreamedSource
from understudy.data.splits import DataSplits
from understudy.utils.errors import UserError
from understudy.utils.text import plural

__all__ = ["EvalLoader", "PlainLoader", "TrainLoader", "eval_loader", "from_plain_loader", "train_loader"]


def train_loader(
    data: DataSplits | Source,
    config: DataConfig,
    *,
    seed: int,
    image_size: ImageSize,
    teacher_size: ImageSize | None = None,
    num_views: int | None = None,
    device: torch.device | str = "cpu",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> TrainLoader:
    """Shuffled, augmented batches: a function of seed, epoch and sample, whatever the device, workers or start.

    The batches of several processes, one after the other, are the batch of a single one: same samples, same pixels
    (mixing apart, see `MixedBatches`; copies are in order within each process).

    Args:
        data: splits, of which train is taken, or a source of N images.
        config: batch size (over all processes), augmentation, mixing, workers, and what an unreadable image does.
        seed: decides order, augmentation and mixing.
        image_size: of the student's images (B,3,H,W): pixels a side of squares, or (H, W).
        teacher_size: of the teacher's, the same crop; None where equal.
        num_views: epochs after which the augmentation repeats; None: never.
        device: where batches arrive, and where small images are augmented.
        mean: of the student's normalisation, per channel in [0,1], in which erasing draws its noise; None: the
            training images', else ImageNet's (0.5, with a deviation of 0.25, of other than three channels).
        std: likewise.
        rank: of this process.
        world_size: processes that share every batch.

    Raises:
        UserError: no batch is left by drop_last or for so many processes, RandAugment of images that are no longer 8
            bits, mixing without labels or class names, or turned copies of images that are no squares.
    """
    source = data.train if isinstance(data, DataSplits) else data
    _check_place(source, config, torch.device(device))
    if has_boxes(source):
        share = Share(rank, world_size)
        return _boxed(source, config, seed=seed, num_views=num_views, share=share, device=torch.device(device))
    image_size, teacher_size = _two_sizes(image_size, teacher_size)
    if config.mix is not None and num_views is not None:
        config = _of_whole_batches(config, world_size)
    if config.copies == "rotations":
        refuse_to_turn(image_size)
    augment, second = augment_for(config, source), second_augment_for(config, source)
    if has_masks(source):
        check_dense(config)
    share = Share(rank, world_size)
    plan = EpochPlan.of(len(source), config, seed=seed, num_views=num_views, share=share, labels=source.labels)
    channels = 3
    if isinstance(data, DataSplits):
        channels, mean, std = data.channels, mean or data.mean, std or data.std
    for one in (augment, second):
        _check_can_augment(source, one)
        _check_channels(channels, one)
    rendering = Rendering(
        augment,
        image_size,
        teacher_size,
        tuple(mean or (IMAGENET_DEFAULT_MEAN if channels == 3 else [0.5] * channels)),
        tuple(std or (IMAGENET_DEFAULT_STD if channels == 3 else [0.25] * channels)),
        takes_rectangles(config, source),
        second,
    )
    loader = _augmented(source, config, rendering, plan, torch.device(device))
    if config.mix is not None:
        return MixedBatches(loader, config.mix, plan, num_classes=_num_classes_to_mix(data), image_size=image_size)
    return RotatedCopies(loader) if config.copies == "rotations" else loader


def _of_whole_batches(config: DataConfig, world_size: int) -> DataConfig:
    """Settings under which every image meets the partner that it had when its view was banked.

    Raises:
        UserError: several processes, each of which would mix its own part of a batch.
    """
    if world_size > 1:
        raise UserError(
            f"data.mix: a bank's images were mixed in the batches of one process, and each of these {world_size} mixes "
            "its own part; train in one process, or leave out data.mix, or the bank"
        )
    return config.model_copy(update={"on_bad_image": "stop"})  # one image less would give all others of it new partners


def _boxed(
    source: Source, config: DataConfig, *, seed: int, num_views: int | None, share: Share, device: torch.device
) -> BoxTrainLoader:
    check_boxed(config)
    return BoxTrainLoader(
        source,
        box_rendering(config),
        batch_size=config.batch_size,
        seed=seed,
        num_views=num_views,
        num_workers=num_workers_for(config, source),
        share=share,
        drop_last=config.drop_last,
        must_stop=config.on_bad_image == "stop",
        aspect_groups=config.aspect_groups,
        device=device,
    )


def _two_sizes(image_size: ImageSize, teacher_size: ImageSize | None) -> tuple[ImageSize, ImageSize | None]:
    """Both as they were given; no other one for the teacher where it sees what the student does."""
    own = checked_size(image_size)
    other = own if teacher_size is None else checked_size(teacher_size, what="teacher_size")
    return own, None if other == own else other


def _augmented(
    source: Source, config: DataConfig, rendering: Rendering, plan: EpochPlan, device: torch.device
) -> TrainLoader:
    """On the device in whole batches where there is a way to do that, else image by image in workers."""
    if isinstance(source, StreamedSource):
        return HubTrainLoader(source, config, rendering, plan, device=device)
    augment = rendering.augment
    if has_masks(source):
        dense = DenseRendering(augment, rendering.image_size, config.shorter_side, rendering.mean)
        return DenseTrainLoader(source, config, dense, plan, device=device)
    parts = _batched_parts(config, rendering, device)
    is_alike, is_cropped = rendering.second is None, isinstance(augment, CropFlip) and not augment.needs_each_image
    is_simple = is_alike and (isinstance(augment, NoAugment) or is_cropped)
    is_batched = config.augment_on == "device" and isinstance(augment, AugmentParts)
    is_small = small_size(source, takes_rectangles=config.takes_rectangles) is not None
    if is_small and (is_simple or is_batched):
        assert not isinstance(augment, ScaleCrop)
        size, teacher_size = rendering.image_size, rendering.teacher_size
        return MemoryTrainLoader(
            source,
            augment,
            plan,
            image_size=size,
            teacher_size=teacher_size,
            device=device,
            parts=parts,
            spares_first=not is_alike,
        )
    if config.decode == "gpu":
        return _on_device(source, config, rendering, plan, parts=parts, device=device)
    return StreamTrainLoader(source, config, rendering, plan, device=device)


def _batched_parts(config: DataConfig, rendering: Rendering, device: torch.device) -> BatchedParts | None:
    """What follows the crop on the device; None where that is nothing, or workers do it."""
    augment = rendering.augment if rendering.second is None else rendering.second
    if not isinstance(augment, AugmentParts):
        return None
    is_wanted = config.augment_on == "device" and (augment.needs_each_image or not isinstance(augment, CropFlip))
    is_scaled = config.decode == "gpu" and augment.interpolation != "bilinear"
    return BatchedParts.on(device, augment, rendering.mean, rendering.std) if is_wanted or is_scaled else None


def _on_device(
    source: Source,
    config: DataConfig,
    rendering: Rendering,
    plan: EpochPlan,
    *,
    parts: BatchedParts | None,
    device: torch.device,
) -> DeviceTrainLoader:
    if problem := device_problem(source, rendering.augment, config, device):
        raise UserError(f"data.decode: gpu cannot be: {problem}. Leave it out, and workers decode")
    assert isinstance(source, ResizedSource)
    assert isinstance(rendering.augment, ResizedCrop)
    return DeviceTrainLoader(
        source,
        rendering.augment,
        plan,
        parts=parts,
        image_size=rendering.image_size,
        teacher_size=rendering.teacher_size,
        must_stop=config.on_bad_image == "stop",
        device=device,
    )


def _check_place(source: Source, config: DataConfig, device: torch.device) -> None:
    if config.augment_on == "device" and (
        problem := augment_problem(source, augment_for(config, source), config, device)
    ):
        raise UserError(f"data.augment_on: device cannot be: {problem}. Leave it out, and workers augment")


def _check_can_augment(source: Source, augment: Augment | None) -> None:
    if not isinstance(augment, AugmentParts) or augment.policy is None:
        return
    if any(image.is_floating_point() for image in first_samples(source)):
        raise UserError(
            f"data.augment: {augment.policy} works on 8-bit images, but a transform of these data has made them "
            "floating-point numbers; leave that transform out, or the RandAugment or AutoAugment"
        )


def _check_channels(channels: int, augment: Augment | None) -> None:
    if channels == 3 or not isinstance(augment, AugmentParts) or not (augment.policy or augment.color_jitter):
        return
    raise UserError(
        f"data.augment: {augment.policy or 'color_jitter'} is about colours, and these images have "
        f"{plural(channels, 'channel')}; leave it out"
    )


def _num_classes_to_mix(data: DataSplits | Source) -> int:
    if not isinstance(data, DataSplits):
        raise UserError("data.mix needs the number of classes; give DataSplits, which name their classes, not a source")
    # a stream's labels are not known beforehand, but each of its images has one
    if (data.train.labels < 0).any() and not isinstance(data.train, StreamedSource):
        raise UserError("data.mix mixes labels, and some training images have none; leave out mix, or these images")
    return len(data.classes)


def eval_loader(
    source: Source,
    config: DataConfig,
    *,
    image_size: ImageSize,
    teacher_size: ImageSize | None = None,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
) -> EvalLoader:
    """Batches in stored order: small images as they are, large ones scaled to cover 1.143 (H, W), the centre cropped.

    Args:
        source: N images, as `DataSplits.val`.
        config: batch size (of each process), workers, and what an unreadable image does.
        image_size: of the student's images (B,3,H,W): pixels a side of squares, or (H, W).
        teacher_size: of the teacher's; None where equal.
        device: where batches arrive.
        rank: of this process.
        world_size: processes that share the images, each a contiguous part: `Share(rank, world_size).of(range(N))`.
    """
    image_size, teacher_size = _two_sizes(image_size, teacher_size)
    device, share = torch.device(device), Share(rank, world_size)
    if has_boxes(source):
        shown = box_rendering(config)
        count = images_at_once(source, shown, config.eval_batch_size)
        workers = num_workers_for(config, source)
        return BoxEvalLoader(source, shown, batch_size=count, num_workers=workers, share=share, device=device)
    if has_masks(source):
        whole = DenseRendering(NoAugment(), image_size, config.shorter_side)
        return DenseEvalLoader(source, config, whole, share, device=device)
    if small_size(source, takes_rectangles=config.takes_rectangles) is not None:
        return MemoryEvalLoader(source, config, share, image_size=image_size, teacher_size=teacher_size, device=device)
    rendering = Rendering(NoAugment(), image_size, teacher_size, takes_rectangles=takes_rectangles(config, source))
    if isinstance(source, StreamedSource):
        return HubEvalLoader(source, config, rendering, share, device=device)
    return StreamEvalLoader(source, config, rendering, share, device=device)
