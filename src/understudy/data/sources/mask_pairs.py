"""Which mask file belongs to which image file, and what the numbers in masks mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from understudy.data.sources.decoding import BadImageError, printable
from understudy.data.sources.folders import image_files, is_named_as_image
from understudy.data.sources.found import BadImages, Found, SplitName
from understudy.data.sources.mask_classes import NamedClasses, classes_in
from understudy.data.sources.mask_table import IGNORED, MaskTable
from understudy.data.sources.masked import FromFiles, MaskedSource
from understudy.utils.errors import UserError
from understudy.utils.text import listed, plural
from understudy.utils.untrusted import given_path

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["Pairs", "check_masks", "found_masks", "pairs_by_name", "settled_masks"]

SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_seg", "_L", "_gtFine_labelIds", "_leftImg8bit")
MOST_READ = 400  # masks of a split, evenly spread, whose values are looked at before anything is trained
SHOWN = 5  # of problems, and what of them is borne
MOST_CLASSES = 255
SAME_SIZE = "; export them at the size of their images, or resize them by nearest neighbour"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images and their masks, as paths below two folders."""

    images: Path
    image_paths: Sequence[str]
    masks: Path
    mask_paths: Sequence[str]
    num_unpaired: int = 0  # images without a mask, which are left out
    no_images: Sequence[str] = ()  # files of both folders that are named as images, and are none


def pairs_by_name(images: Path, masks: Path) -> Pairs:
    """The images below one folder and the masks below another that have their names, but for endings such as _mask.

    Raises:
        UserError: there is no pair.
    """
    found, others = image_files(images)
    mask_files, no_masks = image_files(masks)
    no_images = [name for name in (*others, *no_masks) if is_named_as_image(Path(name.partition(" (")[0]))]
    by_name = {_stem(path): path for path in mask_files}
    paired = [(path, by_name[_stem(path)]) for path in found if _stem(path) in by_name]
    if not found and not mask_files and not no_images:
        raise UserError(
            f"{printable(images)} and {printable(masks)} are empty; put images and masks there, or take both folders "
            "away (without a val split, a part of train is held out)"
        )
    if not paired:
        damaged = f" and {BadImages(no_images).left_out()}" if no_images else ""
        shown = f"{listed(found, 2) or 'no image'} and {listed(mask_files, 2) or 'no mask'}"
        raise UserError(
            f"no image of {printable(images)} has a mask in {printable(masks)} (there are {shown}{damaged}); give a "
            "mask the name of its image, with the ending .png"
        )
    unpaired = len(found) - len(paired)
    return Pairs(images, [a for a, _ in paired], masks, [b for _, b in paired], unpaired, no_images)


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
    no_images = dict.fromkeys(f"{split}: {name}" for split, pairs in splits.items() for name in pairs.no_images)
    return replace(found, notes=(*found.notes, *notes), no_images=tuple(no_images))


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
        values = sorted(class_map.values()) if class_map else _values_of(sources["train"], config.ignored)
        classes = [f"class {number}" for number in range(values[-1] + 1)]
        notes += [] if class_map else _note_on_holes(values)
        notes.append(f"nothing names the classes of {name}'s masks (classes.txt, data.class_names): they are numbered")
    if class_map and not all(0 <= number < len(classes) for number in class_map.values()):
        raise UserError(f"data.class_map: maps to classes beyond the {len(classes)} that there are: {dict(class_map)}")
    table = MaskTable(
        len(classes),
        None if class_map is None else dict(class_map),
        ignored=config.ignored,
        colours=None if told is None else told.colours,
    )
    for split, source in sources.items():
        source.table = table
        source.applies_exif = config.exif_rotation
        notes += check_masks(source, config, classes, split=split)
    return Found(printable(name), tuple(classes), sources, notes=tuple(notes))


def _stem(path: str) -> str:
    stem = str(Path(path).with_suffix(""))
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    return stem


def _some(source: Sized, most: int) -> list[int]:
    return sorted({i * (len(source) - 1) // max(1, most - 1) for i in range(most)}) if len(source) else []


def _values_of(source: FromFiles, ignored: int) -> list[int]:
    """The numbers in the masks of train, of many in evenly spread ones, but for those that mean no class."""
    found: set[int] = set()
    problem: BadImageError | None = None
    for i in _some(source, MOST_READ):
        try:
            found.update(np.unique(source.numbers(i)).tolist())
        except BadImageError as error:  # single ones are said by `check_masks`
            problem = problem or error
    if problem is not None and not found:
        raise problem
    values = sorted(found - {ignored, IGNORED})
    if not values or values[-1] < 1:
        white = next(iter(found & {ignored, IGNORED}), None)
        raise UserError(
            f"the masks of train, such as {source.mask_name(0)}, hold one class at most; there is nothing to tell apart"
            + ("" if white is None else _white_is_a_class(white))
        )
    return values


def _white_is_a_class(value: int) -> str:
    return f" ({value} has no class; where it is one of its own: data.class_map='{{0: 0, {value}: 1}}')"


def _note_on_holes(values: Sequence[int]) -> list[str]:
    """What to say of numbers that leave many between them out."""
    if len(values) > values[-1]:
        return []
    as_map = ", ".join(f"{value}: {number}" for number, value in enumerate(values[:SHOWN]))
    more = ", ..." if len(values) > SHOWN else ""
    return [
        f"the masks hold {len(values)} of the numbers 0..{values[-1]}, and each of these is taken for a class; "
        f"data.class_map='{{{as_map}{more}}}' takes those alone, data.ignored={values[-1]} one for no class"
    ]


def check_masks(source: FromFiles, config: DataConfig, classes: Sequence[str], *, split: str) -> list[str]:
    """Refuse masks that are not what they should be; what a person should know of the others.

    Those of a few damaged files are left out.
    """
    problems: list[str] = []
    turned = are_other_sizes = False
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
            are_other_sizes = True
            turned |= (width, height) == tuple(mask.shape)
            problems.append(
                f"{source.name(i)} has {width} x {height} pixels and its mask {mask.shape[1]} x {mask.shape[0]}"
            )
        seen |= torch.bincount(mask.flatten(), minlength=256).bool()
    notes = []
    if problems:
        said = f"{plural(len(problems), 'mask is', 'masks are')} of no use: {listed(problems, SHOWN)}"
        said += _on_turning(config) if turned else SAME_SIZE if are_other_sizes else ""
        if len(problems) == len(looked_at) or config.on_bad_image == "stop" or len(problems) > SHOWN:
            raise UserError(f"{split}: {said}")
        notes.append(f"{split}: {said} (left out; `data.on_bad_image: stop` to refuse)")
    present = seen[:IGNORED].nonzero().flatten().tolist()
    if not present:
        raise UserError(f"{split}: no pixel of the masks has a class: all that were looked at are ignored")
    if split == "train" and len(classes) > 1:
        notes += _note_on_classes(present, classes, has_ignored=bool(seen[IGNORED]), maps=bool(config.class_map))
    return notes


def _on_turning(config: DataConfig) -> str:
    if config.exif_rotation:
        return " (where EXIF turns the image: data.exif_rotation=false)"
    return " (they fit images that EXIF turns: leave out data.exif_rotation=false)"


def _note_on_classes(present: Sequence[int], classes: Sequence[str], *, has_ignored: bool, maps: bool) -> list[str]:
    """What to say of classes that no mask of train has, of those that were looked at."""
    absent = [printable(name) for number, name in enumerate(classes) if number not in present]
    if len(present) == 1 and has_ignored and not maps:
        raise UserError(
            f"the masks of train hold one class alone, {printable(classes[present[0]])}, and pixels without a class"
            + _white_is_a_class(IGNORED)
        )
    shown = listed(absent, 10)
    return [f"no mask of train has a pixel of {len(absent)} of {len(classes)} classes: {shown}"] if absent else []
