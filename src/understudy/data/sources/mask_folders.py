"""Data sets with masks, by the folders in which they lie: plain ones, Pascal VOC, Cityscapes, ADE20K."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.data.sources.found import Found, SplitName, split_name
from understudy.data.sources.mask_classes import NamedClasses, classes_at
from understudy.data.sources.mask_pairs import Pairs, found_masks, pairs_by_name
from understudy.data.sources.readers import Reader
from understudy.utils.errors import UserError
from understudy.utils.text import plural
from understudy.utils.untrusted import given_path

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["CITYSCAPES", "VOC"]

MASK_FOLDERS = ("masks", "semantic", "labels", "annotations", "mask", "SegmentationClass")

VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

# Name by the value in *_labelIds.png; its order is the class's number (Cordts et al., CVPR 2016).
CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip


class _Masks(Reader, name="masks"):
    """images/ and masks/ (or semantic/, labels/, annotations/), with a folder for each split in both or around them.

    Written images=FOLDER,masks=FOLDER (and classes=FILE), the folders may lie anywhere; train is all of them then.
    """

    asked = 6
    task = "segmentation"
    takes_names = True

    @classmethod
    def is_name(cls, root: str) -> bool:
        """Whether it says images=... and masks=..."""
        return {"images", "masks"} <= set(_parts_of(root))

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether there are images and masks, or splits with both."""
        return bool(_folders(root))

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """Pairs by name.

        Raises:
            UserError: no such folders, no pairs, or masks that are of no use.
        """
        parts = _parts_of(str(root))
        if {"images", "masks"} <= set(parts):
            folders = {name: given_path(path, what=f"data.root, {name}") for name, path in parts.items()}
            for name, path in folders.items():
                if not path.exists():
                    raise UserError(f"data.root: {name}={path}: there is nothing")
            if "classes" in folders:
                config = config.model_copy(update={"class_names": str(folders["classes"])})
            images, masks = folders["images"], folders["masks"]
            names = classes_at(masks, masks.parent)
            return found_masks(images.name, _splits_in(images, masks), config, named=names)
        found = _folders(root)
        if not found:
            raise UserError(f"{root} holds no images/ with masks/ beside them; or write data.root: images=A,masks=B")
        names = classes_at(root, *(masks for _, masks in found.values()))
        splits: dict[SplitName, Pairs] = {}
        for split, (images, masks) in found.items():
            names = names or classes_at(masks.parent)
            splits |= _splits_in(images, masks) if split is None else {split: pairs_by_name(images, masks)}
        if "train" not in splits:
            raise UserError(f"{root} has masks for {', '.join(splits)}, and none for train")
        return found_masks(root.name, splits, config, named=names)


class _Voc(Reader, name="voc"):
    """Pascal VOC as its archive unpacks: JPEGImages/, SegmentationClass/, ImageSets/Segmentation/*.txt."""

    asked = 5
    task = "segmentation"

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether images, masks and their lists are there."""
        return all((root / part).is_dir() for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"))

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """The splits that the lists name.

        Raises:
            UserError: no list of train, or files that it names and that are not there.
        """
        splits: dict[SplitName, Pairs] = {}
        names: tuple[SplitName, ...] = ("train", "val")
        for split in names:
            file = root / "ImageSets/Segmentation" / f"{split}.txt"
            if not file.is_file():
                continue
            stems = file.read_text(encoding="utf-8").split()
            absent = [s for s in stems if not (root / "SegmentationClass" / f"{s}.png").is_file()]
            if absent:
                raise UserError(f"{file} names {len(absent)} images without a mask, such as {absent[0]}; unpack them")
            images, masks = [f"{stem}.jpg" for stem in stems], [f"{stem}.png" for stem in stems]
            splits[split] = Pairs(root / "JPEGImages", images, root / "SegmentationClass", masks)
        if "train" not in splits:
            raise UserError(f"{root}/ImageSets/Segmentation has no train.txt")
        return found_masks(root.name, splits, config, named=classes_at(root) or NamedClasses(VOC))


class _Cityscapes(Reader, name="cityscapes"):
    """Cityscapes as its archives unpack: leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY; the 19 classes of evaluation."""

    asked = 5
    task = "segmentation"

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether images and fine masks are there."""
        return (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """train and val; the masks of test are not published, and its images are counted.

        Raises:
            UserError: no train.
        """
        splits: dict[SplitName, Pairs] = {}
        names: tuple[SplitName, ...] = ("train", "val")
        for split in names:
            masks = root / "gtFine" / split
            if not masks.is_dir():
                continue
            paths = sorted(str(path.relative_to(masks)) for path in masks.rglob("*_gtFine_labelIds.png"))
            images = [path.replace("_gtFine_labelIds.png", "_leftImg8bit.png") for path in paths]
            if paths:
                splits[split] = Pairs(root / "leftImg8bit" / split, images, masks, paths)
        if "train" not in splits:
            raise UserError(f"{root}/gtFine/train holds no *_gtFine_labelIds.png")
        numbers = {value: number for number, value in enumerate(CITYSCAPES)}
        found = found_masks(
            "cityscapes", splits, config, named=NamedClasses(tuple(CITYSCAPES.values())), class_map=numbers
        )
        test = root / "leftImg8bit/test"
        if not (count := sum(1 for _ in test.rglob("*_leftImg8bit.png")) if test.is_dir() else 0):
            return found
        said = (
            f"test: {plural(count, 'image')} whose masks are not published (left out; `understudy predict RUN {test}`)"
        )
        return replace(found, notes=(*found.notes, said))


class _Ade20k(Reader, name="ade20k"):
    """ADE20K of the scene parsing challenge: images/ and annotations/, training/ and validation/; 0 is no class."""

    asked = 5
    task = "segmentation"

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether the challenge's list of objects is there."""
        return (root / "objectInfo150.txt").is_file() and (root / "annotations/training").is_dir()

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """training and validation.

        Raises:
            UserError: no pairs.
        """
        splits = _splits_in(root / "images", root / "annotations")
        lines = (root / "objectInfo150.txt").read_text(encoding="utf-8").splitlines()[1:]
        names = [line.split("\t")[-1].strip() for line in lines if line.strip()]
        if len(names) != 150 or len(set(names)) < 150:
            names = [f"class {number}" for number in range(1, 151)]
        return found_masks(
            "ade20k", splits, config, named=NamedClasses(tuple(names)), class_map={n + 1: n for n in range(150)}
        )


def _parts_of(root: str) -> Mapping[str, str]:
    """What is written as images=A,masks=B,classes=C."""
    pairs = [part.partition("=") for part in root.split(",")]
    known = ("images", "masks", "classes")
    return {key.strip(): value.strip() for key, sign, value in pairs if sign and key.strip() in known}


def _folders(root: Path) -> dict[SplitName | None, tuple[Path, Path]]:
    """Folders of images and of masks by split; None stands for all splits, which lie in both."""
    if not root.is_dir():
        return {}
    if (own := _both(root)) is not None:
        return {None: own}
    found: dict[SplitName | None, tuple[Path, Path]] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        split = _split_of(folder.name)
        if split is not None and (inner := _both(folder)) is not None:
            found[split] = inner
    return found


def _both(folder: Path) -> tuple[Path, Path] | None:
    images = folder / "images"
    masks = next((folder / name for name in MASK_FOLDERS if _holds_masks(folder / name)), None)
    return (images, masks) if images.is_dir() and masks is not None else None


def _holds_masks(folder: Path) -> bool:
    """Whether a folder has PNG files, itself or in folders of splits; `labels` may hold text of boxes."""
    return folder.is_dir() and (any(folder.glob("*.png")) or any(folder.glob("*/*.png")))


def _splits_in(images: Path, masks: Path) -> dict[SplitName, Pairs]:
    """Pairs of each split that both folders have; all of them are train where neither is divided."""
    splits: dict[SplitName, Pairs] = {}
    for folder in sorted(path for path in masks.iterdir() if path.is_dir()):
        split = _split_of(folder.name)
        if split is not None and (images / folder.name).is_dir():
            splits[split] = pairs_by_name(images / folder.name, folder)
    return splits or {"train": pairs_by_name(images, masks)}


def _split_of(name: str) -> SplitName | None:
    """train2017 is train."""
    return split_name(re.sub(r"\d+$", "", name))
