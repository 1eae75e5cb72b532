"""COCO's panoptic annotations as masks: the class of the segment that each pixel belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from understudy.data.sources.boxed import refuse_missing, refuse_outside_paths
from understudy.data.sources.decoding import BadImageError, printable
from understudy.data.sources.found import Found, SplitName, split_name
from understudy.data.sources.mask_pairs import check_masks
from understudy.data.sources.mask_table import IGNORED, MaskTable
from understudy.data.sources.masked import MaskedSource
from understudy.data.sources.readers import AUTO, Reader
from understudy.utils.errors import UserError
from understudy.utils.text import plural
from understudy.utils.untrusted import given_path, text_of

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["PanopticSource", "is_panoptic", "with_mask_format"]

MOST_BYTES = 2**31  # COCO's own training file has 340 MB
MOST_CLASSES = 255


class PanopticSource(MaskedSource):
    """Images, and PNGs whose colours are numbers of segments: red + 256 green + 65,536 blue.

    Args:
        segments: of each image, the class by the number of a segment; 0 and pixels of crowds have none where they are
            left out.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        mask_root: Path,
        mask_paths: Sequence[str],
        table: MaskTable,
        segments: Sequence[Mapping[int, int]],
    ) -> None:
        super().__init__(root, paths, mask_root, mask_paths, table)
        self.segments = segments

    def mask(self, i: int) -> Tensor:
        """Read now."""
        values = self.values(i)
        if values.ndim != 3:
            raise BadImageError(f"{self.mask_name(i)}: a panoptic PNG has colours that number its segments")
        red, green, blue = (values[..., channel].astype(np.int64) for channel in range(3))
        numbers, places = np.unique(red + 256 * green + 65536 * blue, return_inverse=True)
        known = {0: IGNORED, **self.segments[i]}
        if unknown := [number for number in numbers.tolist() if number not in known]:
            raise BadImageError(
                f"{self.mask_name(i)}: holds {plural(len(unknown), 'segment')} that the json does not list, such as "
                f"{unknown[0]}; do both come from one archive?"
            )
        classes = np.array([known[number] for number in numbers.tolist()], dtype=np.uint8)
        return torch.from_numpy(classes[places.reshape(values.shape[:2])])


class _Panoptic(Reader, name="panoptic"):
    """annotations/panoptic_train*.json with PNGs in panoptic_train*/ or panoptic/train*/, beside folders of images."""

    asked = 5
    task = "segmentation"

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether such files lie there and neither boxes nor masks of classes do; else data.format: panoptic."""
        others = [*root.glob("annotations/instances*.json"), *root.glob("semantic"), *root.glob("masks")]
        return not others and is_panoptic(root)

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """Classes are the categories in the order of their ids.

        Raises:
            UserError: no file of train, a file in another form, folders that are not there, other categories.
        """
        files = _files(root)
        if "train" not in files:
            raise UserError(f"{root} has no panoptic annotations to train on; it should hold panoptic_train*.json")
        names: tuple[str, ...] | None = None
        splits: dict[SplitName, MaskedSource] = {}
        notes = []
        for split, file in files.items():
            content = _content(file)
            own, numbers = _categories(content, file)
            if names not in (None, own):
                raise UserError(f"{file} has other categories than those of train; splits need the same")
            names = own
            source = _source(content, file, _folder(root, file, split, ""), _folder(root, file, split, "panoptic"),
                             MaskTable(len(own)), numbers)  # fmt: skip
            source.applies_exif = config.exif_rotation
            notes += check_masks(source, config, own, split=split)
            splits[split] = source
            if unpaired := len(content["images"]) - len(source):
                notes.append(f"{split}: {plural(unpaired, 'image')} without a mask (left out)")
        assert names is not None, "train is there"
        return Found(printable(root.name), names, splits, notes=tuple(notes))


def is_panoptic(root: Path) -> bool:
    """Whether panoptic annotations of train lie there."""
    return "train" in _files(root)


def with_mask_format(config: DataConfig) -> DataConfig:
    """The settings with the format of panoptic masks where they lie beside boxes and nobody names a format.

    So that whoever asks for masks gets them; masks of classes go before.
    """
    path = given_path(config.root, what="data.root")
    if config.format != AUTO or not path.is_dir() or any((path / name).is_dir() for name in ("semantic", "masks")):
        return config
    return config.model_copy(update={"format": "panoptic"}) if is_panoptic(path) else config


def _files(root: Path) -> dict[SplitName, Path]:
    found: dict[SplitName, Path] = {}
    for file in sorted([*root.glob("panoptic_*.json"), *root.glob("annotations/panoptic_*.json")]):
        split = split_name(re.sub(r"\d+$", "", file.stem.removeprefix("panoptic_")))
        if split in ("train", "val"):
            found.setdefault(split, file)
    return found


def _folder(root: Path, file: Path, split: str, kind: str) -> Path:
    """Of a split's images ("") or of its PNGs ("panoptic"): COCO's own names, and folders of splits."""
    tag = file.stem.removeprefix("panoptic_")
    parents = [root / "images", root, file.parent] if not kind else [root / kind, root / "annotations" / kind]
    tags = [tag, f"{tag}2017", split]
    tried = [parent / name for parent in parents for name in tags]
    if kind:
        tried = [parent / f"panoptic_{name}" for parent in (file.parent, root) for name in tags] + tried
    for folder in tried:
        if folder.is_dir() and any(folder.glob("*.png" if kind else "*.*")):
            return folder
    what = "PNGs of segments" if kind else "images"
    raise UserError(f"{file}: its {what} are not there; they are looked for in {tried[0]} and {tried[-1]}")


def _content(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(text_of(file, most_bytes=MOST_BYTES))
        [found[key][0] for key in ("images", "annotations", "categories")]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{file}: is no panoptic file of COCO's (images, annotations, categories): {error}") from None
    return dict(found)


def _categories(content: Mapping[str, Any], file: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names in the order of ids, and the class of each id."""
    try:
        listed = sorted((int(one["id"]), str(one["name"])) for one in content["categories"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: a category needs an id and a name: {error}") from None
    names = tuple(printable(name) for _, name in listed)
    if len(set(names)) < len(names) or len(names) > MOST_CLASSES:
        raise UserError(f"{file}: categories are to have names of their own, and be at most {MOST_CLASSES}")
    return names, {number: place for place, (number, _) in enumerate(listed)}


def _source(
    content: Mapping[str, Any], file: Path, images: Path, masks: Path, table: MaskTable, numbers: Mapping[int, int]
) -> PanopticSource:
    """The annotated images in the order of the file."""
    try:
        paths = {one["id"]: str(one["file_name"]) for one in content["images"]}
        listed = content["annotations"]
        segments = [{int(part["id"]): numbers[part["category_id"]] for part in one["segments_info"]} for one in listed]
        names = [paths[one["image_id"]] for one in listed]
        mask_names = [str(one["file_name"]) for one in listed]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: an annotation lacks, or names, what is not there: {error!r}") from None
    for folder, inside in ((images, names), (masks, mask_names)):
        for name in inside:
            refuse_outside_paths(name, what=str(file))
        refuse_missing(folder, inside, what=str(file))
    return PanopticSource(images, names, masks, mask_names, table, segments)
