"""Which mask file belongs to which image file, and what the numbers in masks mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from understudy.data.sources.decoding import BadImageError, printable
from understudy.data.sources.folders import image_files
from understudy.data.sources.found import BadImages, Found, SplitName
from understudy.data.sources.mask_classes import NamedClasses, classes_in
from understudy.data.sources.mask_table import MaskTable
from understudy.data.sources.masked import FromFiles, MaskedSource
from understudy.utils.errors import UserError
from understudy.utils.text import listed, plural
from understudy.utils.untrusted import given_path

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["Pairs", "check_masks", "found_masks", "pairs_by_name", "settled_masks"]

SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_seg", "_L", "_gtFine_labelIds", "_leftImg8bit")
MOST_READ = 400  # masks of a split, evenly spread, whose values are looked at before anything is trained
SHOWN = 5
MOST_CLASSES = 255


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images and their masks, as paths below two folders."""

    images: Path
    image_paths: Sequence[str]
    masks: Path
    mask_paths: Sequence[str]
    num_unpaired: int = 0  # images without a mask, which are left out


def pairs_by_name(images: Path, masks: Path) -> Pairs:
    """The images below one folder and the masks below another that have their names, but for endings such as _mask.

    Raises:
        UserError: there is no pair.
    """
    found, _ = image_files(images)
    mask_files, _ = image_files(masks)
    by_name = {_stem(path): path for path in mask_files}
    paired = [(path, by_name[_stem(path)]) for path in found if _stem(path) in by_name]
    if not paired:
        shown = f"{listed(found, 2) or 'no image'} and {listed(mask_files, 2) or 'no mask'}"
        raise UserError(
            f"no image of {printable(images)} has a mask in {printable(masks)} (there are {shown}); give a mask the "
            "name of its image, with the ending .png"
        )
    return Pairs(images, [a for a, _ in paired], masks, [b for _, b in paired], len(found) - len(paired))


def found_masks(
    name: str,
    splits: Mapping[SplitName, Pairs],
    config: DataConfig,
    *,
    named: NamedClasses | None,
    class_map: Mapping[int, int] | None = None,
) -> Found:
    """The splits of a data set with masks, once what is in them is known to be classes.

    Args:
        name: of the data set.
        splits: "train" among them.
        config: may name classes, map them and say what is ignored.
        named: the classes, where the layout or a file beside the masks names them.
        class_map: class of each value, where the layout has one of its own.

    Raises:
        UserError: masks that cannot be read, values that are no class, a map beyond the classes.
    """
    sources = {
        split: MaskedSource(pairs.images, pairs.image_paths, pairs.masks, pairs.mask_paths, MaskTable(MOST_CLASSES))
        for split, pairs in splits.items()
    }
    found = settled_masks(name, sources, config, named=named, class_map=class_map)
    unpaired = [(split, pairs.num_unpaired) for split, pairs in splits.items() if pairs.num_unpaired]
    notes = [f"{split}: {plural(count, 'image')} without a mask (left out)" for split, count in unpaired]
    return replace(found, notes=(*found.notes, *notes))


def settled_masks(
    name: str,
    sources: Mapping[SplitName, FromFiles],
    config: DataConfig,
    *,
    named: NamedClasses | None,
    class_map: Mapping[int, int] | None = None,
) -> Found:
    """The splits of a data set, what the numbers of their masks mean settled and looked at; see `found_masks`."""
    told = classes_in(given_path(config.class_names, what="data.class_names")) if config.class_names else named
    classes: Sequence[str] | None = None if told is None else told.names
    class_map = config.class_map or class_map
    notes = []
    if classes is None:
        count = max(class_map.values()) + 1 if class_map else _highest_value(sources["train"], config.ignored) + 1
        classes = [f"class {number}" for number in range(count)]
        notes.append(f"nothing names the classes of {name}'s masks (classes.txt, data.class_names): they are numbered")
    if class_map and not all(0 <= number < len(classes) for number in class_map.values()):
        raise UserError(f"data.class_map: maps to classes beyond the {len(classes)} that there are: {dict(class_map)}")
    table = MaskTable(
        len(classes),
        None if class_map is None else dict(class_map),
        ignored=config.ignored,
        colours=None if told is None else told.colours,
    )
    for source in sources.values():
        source.table = table
        source.applies_exif = config.exif_rotation
        check_masks(source, config)
    return Found(printable(name), tuple(classes), sources, notes=tuple(notes))


def _stem(path: str) -> str:
    stem = str(Path(path).with_suffix(""))
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    return stem


def _some(source: Sized, most: int) -> list[int]:
    return sorted({i * (len(source) - 1) // max(1, most - 1) for i in range(most)}) if len(source) else []


def _highest_value(source: FromFiles, ignored: int) -> int:
    """The highest class number in the masks of train, of many in evenly spread ones."""
    highest = -1
    for i in _some(source, MOST_READ):
        values = np.unique(source.numbers(i))
        values = values[(values != ignored) & (values != 255)]
        highest = max([highest, *map(int, values)])
    if highest < 1:
        raise UserError(
            f"the masks of train, such as {source.mask_name(0)}, hold one class at most; there is nothing to tell apart"
        )
    return highest


def check_masks(source: FromFiles, config: DataConfig) -> None:
    """Refuse masks that are not what they should be; those of a few damaged files are said later, and left out."""
    problems = []
    seen = torch.zeros(256, dtype=torch.bool)
    looked_at = _some(source, MOST_READ)
    for i in looked_at:
        try:
            mask = source.mask(i)
            height, width = source.size(i)
        except BadImageError as error:
            problems.append(str(error))
            continue
        if (height, width) != tuple(mask.shape):
            is_turned = (width, height) == tuple(mask.shape)
            problems.append(
                f"{source.name(i)} has {width} x {height} pixels and its mask {mask.shape[1]} x {mask.shape[0]}"
                + (" (where EXIF turns the image: data.exif_rotation=false)" if is_turned else "")
            )
        seen |= torch.bincount(mask.flatten(), minlength=256).bool()
    if problems and (len(problems) == len(looked_at) or config.on_bad_image == "stop" or len(problems) > SHOWN):
        raise UserError(f"{BadImages(problems, ('mask is of no use', 'masks are of no use')).left_out()[:-10]}")
    if not bool(seen[:255].any()):
        raise UserError("no pixel of the masks has a class: all that were looked at are ignored")
