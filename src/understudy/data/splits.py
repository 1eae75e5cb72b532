"""open_data: from settings to train, val and test, with the words that say where each comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from understudy.core.image_size import ImageSize, height_and_width, size_of, size_text
from understudy.data.augment.boxes import box_rendering, check_boxed, padded_size
from understudy.data.augment.crops import first_samples
from understudy.data.augment.dense import check_dense
from understudy.data.cache import Cached, cached, first_readable
from understudy.data.config import DataConfig
from understudy.data.divide import divided, reduced
from understudy.data.duplicates import duplicate_notes
from understudy.data.sources.base import Source, as_unit, images_in_memory, rows_of, small_size
from understudy.data.sources.box_sizes import check_box_sizes
from understudy.data.sources.boxed import boxes_of_image, has_boxes, size_of_boxed
from understudy.data.sources.detect import find
from understudy.data.sources.found import BadImages, Found
from understudy.data.sources.grey_range import note_on_greys, settle_greys
from understudy.data.sources.greys import Greys
from understudy.data.sources.hub_stream import stream_parts
from understudy.data.sources.masked import has_masks
from understudy.data.sources.orientation import count_rotations, set_orientation
from understudy.data.sources.streamed import PEEKED
from understudy.data.unlabelled import read_unlabelled
from understudy.utils.errors import UserError
from understudy.utils.machine import hand_back_memory
from understudy.utils.text import listed, mib

__all__ = ["DataSplits", "open_data", "size_as_given", "splits_of"]

MOST_WINDOW = 512  # pixels a side of what is cut out of images with masks, unless somebody says more
SMALLEST_USUAL = 16  # pixels; networks for large images divide by 32


@dataclass(frozen=True, slots=True)
class DataSplits:
    """What a run learns from and is measured on.

    Attributes:
        val_origin: in words: "val folder", "val split", "held out by seed 0", "rows 10000:12500 of train" or
            "test split".
        native_size: of the training images where they are small, of one size and in memory, else None.
        mean: per channel (R, G, B) of the training images in [0,1], where they are in memory.
        std: likewise.
        greys: the values that became black and white, where the images have more than 8 bits.
        channels: of the images; other than 3 only in data sets made in Python.
        num_rotated: image files, of those that were looked at, whose EXIF orientation turned them.
        window: usual size of what is cut out of the training images, where they have masks, or at which they are
            evaluated, where they have boxes; None: they have neither.
        num_unlabelled: training images whose label is -1: they join the distillation loss alone.
        notes: what a person should be told: files left out, memory taken, equal images under two labels.
    """

    name: str
    classes: tuple[str, ...]
    train: Source
    val: Source
    test: Source | None
    val_origin: str
    native_size: ImageSize | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    greys: Greys | None = None
    channels: int = 3
    num_rotated: int = 0
    num_unlabelled: int = 0
    window: ImageSize | None = None
    notes: tuple[str, ...] = ()

    @property
    def have_boxes(self) -> bool:
        """Whether images have boxes, so that `classes` are what is in them."""
        return has_boxes(self.train)


def open_data(config: DataConfig) -> DataSplits:
    """Find the images at `config.root`, divide them, and keep small ones in memory.

    Raises:
        UserError: nothing there, or not in a form that can be used; the text says what was found and what to do.
    """
    if config.streaming:
        return streamed_splits(config)
    splits = splits_of(find(config), config)
    hand_back_memory()  # of the encoded images and their decoders
    return splits


def streamed_splits(config: DataConfig) -> DataSplits:
    """Splits that are streamed from the hub and never stored, whose images have no numbers.

    Raises:
        UserError: as `stream_parts`.
    """
    found = stream_parts(config)
    head = rows_of(found.parts["train"], torch.arange(min(PEEKED, len(found.parts["train"]))))
    greys = settle_greys(head, found.parts.values(), config.grey_range)
    set_orientation(found.parts.values(), applies_exif=config.exif_rotation)
    return DataSplits(
        name=found.name,
        classes=found.classes,
        train=found.parts["train"],
        val=found.parts["val"],
        test=found.parts.get("test"),
        val_origin=found.val_origin,
        greys=greys,
        notes=(
            *note_on_greys(greys),
            "data.streaming: images have no numbers, so there is no bank, no method that remembers samples (crd), "
            "and a resumed run draws the images before its step again to get there",
        ),
    )


def splits_of(found: Found, config: DataConfig, *, greys: Greys | None = None) -> DataSplits:
    """Divide what a reader found, as the settings say.

    Args:
        found: all splits as they are stored.
        config: of the data.
        greys: the range that the images are scaled by, where that is settled already.

    Raises:
        UserError: rows that are not there, an empty split, no test split where val: test wants it, small images
            without memory for them under cache: auto, or, under on_bad_image: stop, an image that cannot be read.
    """
    notes = [*found.notes]
    if not found.are_greys_settled:
        greys = settle_greys(found.splits["train"], found.splits.values(), config.grey_range)
        notes += note_on_greys(greys)
    are_masked, are_boxed = has_masks(found.splits["train"]), has_boxes(found.splits["train"])
    notes += _checked_targets(found, config, are_masked=are_masked, are_boxed=are_boxed)
    parts, origin = divided(found, config)
    parts["train"], note_on_part = reduced(parts["train"], config)
    if are_boxed:
        _refuse_boxless(parts["val"], f"{found.name}'s val split")
    unlabelled = read_unlabelled(parts["train"], config, greys)
    no_images = [*found.no_images, *unlabelled.no_images]
    notes += [*([note_on_part] if note_on_part else []), *unlabelled.notes]
    notes += _notes_on_bad(BadImages(no_images), config)
    parts["train"] = unlabelled.train
    names = {source: name for name, source in reversed(parts.items())}  # val and test are one under data.val: test
    rotations = count_rotations(names)
    notes += rotations.note(is_applied=config.exif_rotation)
    once = {source: _once(source, config, what=f"the {found.name} {names[source]} images") for source in names}
    bad = [*found.bad, *(text for part in once.values() for text in part.bad)]
    notes += _notes_on_bad(BadImages(bad, ("image cannot be read", "images cannot be read")), config)
    decoded = {name: once[source] for name, source in parts.items()}
    for name, part in decoded.items():
        if len(part.source) == 0:
            raise UserError(f"none of the {len(parts[name])} images of {found.name}'s {name} split can be read")
    train = decoded["train"].source
    mean, std = _statistics(train)
    notes += [] if are_masked or are_boxed else _notes_on_classes(train, found.classes)
    notes += duplicate_notes(decoded, found.classes)
    notes += _notes_on_sizes(train, config)
    return DataSplits(
        name=found.name,
        classes=found.classes,
        train=train,
        val=decoded["val"].source,
        test=decoded["test"].source if "test" in parts else None,
        val_origin=origin,
        native_size=small_size(train, takes_rectangles=config.takes_rectangles),
        mean=mean,
        std=std,
        greys=greys,
        num_rotated=rotations.found if config.exif_rotation else 0,
        num_unlabelled=int((train.labels < 0).sum()),
        window=_window(train) if are_masked else _shown_size(train, config) if are_boxed else None,
        notes=(*notes, *_notes_on_memory(part.source for part in once.values())),
    )


def _once(source: Source, config: DataConfig, *, what: str) -> Cached:
    """A source in memory, where its images are small and have neither masks nor boxes."""
    mode = False if has_masks(source) or has_boxes(source) else config.cache
    return cached(source, mode, takes_rectangles=config.takes_rectangles, what=what)


def _checked_targets(found: Found, config: DataConfig, *, are_masked: bool, are_boxed: bool) -> list[str]:
    """Refuse settings that say nothing of masks or boxes; what a person should know of the boxes."""
    if are_masked:
        check_dense(config)
    if not are_boxed:
        return []
    check_boxed(config)
    return [note for split, source in found.splits.items() for note in check_box_sizes(source, config, split=split)]


def _refuse_boxless(source: Source, name: str) -> None:
    if len(source) and not any(len(boxes_of_image(source, i).labels) for i in range(len(source))):
        raise UserError(
            f"no image of {name} has a box, and average precision is of boxes that are there; give it boxes, or take "
            "the split away, so that a part of train is held out"
        )


def _window(train: Source) -> ImageSize:
    """Squares as large as the first image, to multiples of 32, up to 512 pixels."""
    first = first_readable(train)
    longest = MOST_WINDOW if first is None else max(first.shape[-2:])
    return min(MOST_WINDOW, -(-longest // 32) * 32)


def _shown_size(train: Source, config: DataConfig) -> ImageSize:
    """Of the first image with boxes, as it is evaluated and padded."""
    return size_of(padded_size([box_rendering(config).whole(size_of_boxed(train, 0))]))


def size_as_given(data: DataSplits) -> ImageSize:
    """Size of the training images, as far as the first that can be read tells; of rectangles the next few, too.

    Raises:
        UserError: none can be read, or they are rectangles of several sizes.
    """
    first = first_readable(data.train)
    if first is None:
        raise UserError(f"none of the {len(data.train)} training images of {data.name} can be read")
    size = size_of(first.shape)
    others = {tuple(image.shape[-2:]) for image in first_samples(data.train)} - {tuple(first.shape[-2:])}
    if isinstance(size, tuple) and others:
        raise UserError(
            f"images are {size_text(size)} pixels and {size_text(size_of(others.pop()))}; one size is wanted: crop "
            "or resize them in the data set"
        )
    return size


def _notes_on_bad(bad: BadImages, config: DataConfig) -> list[str]:
    if bad.names and config.on_bad_image == "stop":
        raise bad.error()
    return [bad.note()] if bad.names else []


def _notes_on_classes(train: Source, classes: tuple[str, ...]) -> list[str]:
    counts = torch.bincount(train.labels[train.labels >= 0], minlength=len(classes))
    absent = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
    shown = listed(absent, 10)
    return [f"train has no image of {len(absent)} of {len(classes)} classes: {shown}"] if absent else []


def _notes_on_sizes(train: Source, config: DataConfig) -> list[str]:
    """What is allowed but hardly meant."""
    notes = []
    if config.batch_size > len(train):
        size = f"data.batch_size {config.batch_size:,}"
        notes.append(f"{size} is more than the {len(train):,} training images: a step takes all of them")
    if config.image_size is not None and min(height_and_width(config.image_size)) < SMALLEST_USUAL:
        notes.append(
            f"data.image_size {size_text(config.image_size)}: of so few pixels most networks leave none to look at"
        )
    return notes


def _notes_on_memory(sources: Iterable[Source]) -> list[str]:
    num_bytes = sum(images.nbytes for images in map(images_in_memory, sources) if images is not None)
    return [f"decoded images take {mib(num_bytes, digits=1)} of memory"] if num_bytes else []


def _statistics(source: Source, chunk: int = 1000) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    """Mean and standard deviation per channel over the labelled images, in [0,1]; None of images not in memory."""
    stored = images_in_memory(source)
    if stored is None:
        return None, None
    channels = stored.shape[1]
    total = torch.zeros(2, channels, dtype=torch.float64)
    is_labelled = source.labels >= 0
    for images, mask in zip(torch.split(stored, chunk), torch.split(is_labelled, chunk), strict=True):
        pixels = as_unit(images if mask.all() else images[mask])  # (n,D,H,W)
        total += torch.stack([pixels.sum((0, 2, 3)), pixels.square().sum((0, 2, 3))]).double()
    mean, square = total / (int(is_labelled.sum()) * stored[0].numel() / channels)
    std = (square - mean.square()).clamp_min(0).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())
