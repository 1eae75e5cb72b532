"""Which mask file belongs to which image file, and what the numbers in masks mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from understudy.data.sources.decoding import BadImageError, printable
from understudy.data.sources.folders import image_files
from understudy.data.sources.found import BadImages, Found, SplitName
from understudy.data.sources.masked import MaskedSource, MaskTable
from understudy.utils.errors import UserError
from understudy.utils.text import listed, plural

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["Pairs", "class_names_at", "found_masks", "pairs_by_name"]

SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_seg", "_L", "_gtFine_labelIds", "_leftImg8bit")
NAME_FILES = ("classes.txt", "classes.json", "labels.txt", "names.txt", "class_names.txt")
MOST_READ = 400  # masks of a split, evenly spread, whose values are looked at before anything is trained
SHOWN = 5


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
    classes: Sequence[str] | None,
    class_map: Mapping[int, int] | None = None,
) -> Found:
    """The splits of a data set with masks, once what is in them is known to be classes.

    Args:
        name: of the data set.
        splits: "train" among them.
        config: may name classes, map them and say what is ignored.
        classes: names, where the layout or a file beside the masks says them.
        class_map: class of each value, where the layout has one of its own.

    Raises:
        UserError: masks that cannot be read, values that are no class, a map beyond the classes.
    """
    told = _names_in(Path(config.class_names)) if config.class_names is not None else None
    classes, class_map = told or classes, config.class_map or class_map
    notes = []
    if classes is None:
        count = max(class_map.values()) + 1 if class_map else _highest_value(splits, config.ignored) + 1
        classes = [f"class {number}" for number in range(count)]
        notes.append(f"nothing names the classes of {name}'s masks (classes.txt, data.class_names): they are numbered")
    if class_map and not all(0 <= number < len(classes) for number in class_map.values()):
        raise UserError(f"data.class_map: maps to classes beyond the {len(classes)} that there are: {dict(class_map)}")
    table = MaskTable(len(classes), None if class_map is None else dict(class_map), ignored=config.ignored)
    sources = {
        split: MaskedSource(pairs.images, pairs.image_paths, pairs.masks, pairs.mask_paths, table)
        for split, pairs in splits.items()
    }
    for source in sources.values():
        source.applies_exif = config.exif_rotation
        _check(source, config)
    for split, pairs in splits.items():
        if pairs.num_unpaired:
            notes.append(f"{split}: {plural(pairs.num_unpaired, 'image')} without a mask (left out)")
    return Found(printable(name), tuple(classes), sources, notes=tuple(notes))


def class_names_at(*folders: Path) -> list[str] | None:
    """The names of the classes, from the first file of them in some folders; None where there is none."""
    files = [folder / name for folder in folders for name in NAME_FILES if (folder / name).is_file()]
    return _names_in(files[0]) if files else None


def _names_in(file: Path) -> list[str]:
    """Of a text file, a name a line; of JSON a list of names, or of objects with "name"."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            read = json.loads(text)
            read = read.get("classes", read) if isinstance(read, dict) else read
            entries = list(read.values()) if isinstance(read, dict) else list(read)
            names = [str(entry.get("name") if isinstance(entry, dict) else entry) for entry in entries]
        else:
            names = [line.strip() for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{printable(file)}: no names of classes can be read: {error}") from None
    if not names or len(set(names)) < len(names):
        raise UserError(f"{printable(file)}: names of classes are to be there, and each once")
    return [printable(name) for name in names]


def _stem(path: str) -> str:
    stem = str(Path(path).with_suffix(""))
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    return stem


def _some(source: MaskedSource, most: int) -> list[int]:
    return sorted({i * (len(source) - 1) // max(1, most - 1) for i in range(most)}) if len(source) else []


def _highest_value(splits: Mapping[SplitName, Pairs], ignored: int) -> int:
    """The highest class number in the masks of train, of many in evenly spread ones."""
    pairs = splits["train"]
    source = MaskedSource(pairs.images, pairs.image_paths, pairs.masks, pairs.mask_paths, MaskTable(255))
    highest = -1
    for i in _some(source, MOST_READ):
        values = np.unique(source.values(i))
        values = values[(values != ignored) & (values != 255)]
        highest = max([highest, *map(int, values)])
    if highest < 1:
        raise UserError(f"the masks in {printable(pairs.masks)} hold one class at most; there is nothing to tell apart")
    return highest


def _check(source: MaskedSource, config: DataConfig) -> None:
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
