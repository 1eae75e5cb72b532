"""ImageNet-1k and Tiny-ImageNet in the folders that their archives unpack to."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from understudy.data.sources.base import FileSource
from understudy.data.sources.decoding import printable
from understudy.data.sources.folders import image_files, read_trees
from understudy.data.sources.found import Found, SplitName
from understudy.data.sources.readers import Reader
from understudy.utils.errors import UserError

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["is_imagenet", "is_tiny_imagenet", "read_imagenet", "read_tiny_imagenet"]

_CLS_LOC = Path("ILSVRC/Data/CLS-LOC")
_TINY = "tiny-imagenet-200"


def is_imagenet(root: Path) -> bool:
    """Whether this is the ILSVRC CLS-LOC archive, or the `train` and `val` folders with its class names beside them."""
    return (root / _CLS_LOC / "train").is_dir() or (root / "LOC_synset_mapping.txt").is_file()


def is_tiny_imagenet(root: Path) -> bool:
    """Whether this is Tiny-ImageNet as CS231N packed it, or the folder that holds it."""
    marks = ("val/val_annotations.txt", "wnids.txt")  # one of them may have been lost
    return any((folder / mark).is_file() for folder in (root, root / _TINY) for mark in marks)


def read_imagenet(root: Path) -> Found:
    """ImageNet-1k: train/WNID/*.JPEG and val, by class or flat with LOC_val_solution.csv. test has no labels.

    Classes are the sorted WordNet ids, as everywhere; they are named by LOC_synset_mapping.txt where that is there.

    Raises:
        UserError: no train folder, or a flat val without its labels.
    """
    data = root / _CLS_LOC if (root / _CLS_LOC).is_dir() else root
    if not (data / "train").is_dir():
        raise UserError(f"{root} has neither train nor {_CLS_LOC / 'train'}; data.root is the folder that holds one")
    val = data / "val"
    if not val.is_dir() or any(path.is_dir() for path in val.iterdir()):
        folders: dict[SplitName, Path] = {"train": data / "train"}
        if val.is_dir():
            folders["val"] = val
        found = read_trees(data, folders)
        return replace(found, name="imagenet", classes=_named(found.classes, _synsets(root)))
    found = read_trees(data, {"train": data / "train"})
    solution = root / "LOC_val_solution.csv"
    if not solution.is_file():
        raise UserError(f"{val} is not sorted by class, and {solution} is not there to say which image is of which")
    with solution.open(newline="") as file:
        wnid_of = {f"{row['ImageId']}.JPEG": row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    return _with_val(found, data, "val", wnid_of, "imagenet", _synsets(root))


def read_tiny_imagenet(root: Path) -> Found:
    """Tiny-ImageNet: wnids.txt, words.txt, train/WNID/images, val/images with val_annotations.txt. test has no labels.

    Classes are the sorted WordNet ids, named by the first word of words.txt.

    Raises:
        UserError: a folder or list of these is missing.
    """
    root = root / _TINY if (root / _TINY).is_dir() else root
    missing = [name for name in ("train", "val/val_annotations.txt") if not (root / name).exists()]
    if missing:
        raise UserError(
            f"{root} is not the whole of Tiny-ImageNet: it lacks {' and '.join(missing)}; for class folders as they "
            "are, set data.format=folder"
        )
    found = read_trees(root, {"train": root / "train"})
    lines = (root / "val/val_annotations.txt").read_text().splitlines()
    wnid_of = {fields[0]: fields[1] for line in lines if len(fields := line.split("\t")) > 1}
    return _with_val(found, root, "val/images", wnid_of, "tiny-imagenet", _words(root))


def _with_val(
    found: Found, root: Path, folder: str, wnid_of: Mapping[str, str], name: str, words: Mapping[str, str]
) -> Found:
    """`found`, with the flat val folder whose images' classes are listed by file name."""
    paths, bad = image_files(root / folder)
    number_of = {wnid: number for number, wnid in enumerate(found.classes)}
    unlisted = [path for path in paths if path not in wnid_of]
    if unlisted:
        shown = ", ".join(map(printable, unlisted[:10]))
        raise UserError(f"{root / folder} has {len(unlisted)} images whose class is not listed: {shown}")
    if unknown := sorted({wnid_of[path] for path in paths} - set(number_of)):
        raise UserError(f"val has classes that train lacks: {', '.join(unknown[:10])}")
    labels = torch.tensor([number_of[wnid_of[path]] for path in paths], dtype=torch.int64)
    val = FileSource(root, [f"{folder}/{path}" for path in paths], labels)
    return replace(
        found,
        name=name,
        classes=_named(found.classes, words),
        splits={**found.splits, "val": val},
        no_images=(*found.no_images, *(f"{folder}/{path}" for path in bad)),
    )


def _named(wnids: Sequence[str], words: Mapping[str, str]) -> tuple[str, ...]:
    """The first word of each id; where two have the same (ImageNet has two cranes), the id beside it."""
    first = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    count = Counter(first)
    return tuple(word if count[word] == 1 else f"{word} ({wnid})" for word, wnid in zip(first, wnids, strict=True))


def _synsets(root: Path) -> dict[str, str]:
    """Words by WordNet id, of lines "n01440764 tench, Tinca tinca"; none without the file."""
    file = root / "LOC_synset_mapping.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    return dict(line.split(" ", 1) for line in lines if " " in line)


def _words(root: Path) -> dict[str, str]:
    """Words by WordNet id, of lines "n01443537<tab>goldfish, Carassius auratus"; none without the file."""
    file = root / "words.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    return dict(line.split("\t", 1) for line in lines if "\t" in line)


class _TinyImageNet(Reader, name="tiny-imagenet"):
    """Tiny-ImageNet as CS231N packed it."""

    asked = 6

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """See `is_tiny_imagenet`."""
        return is_tiny_imagenet(root)

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """See `read_tiny_imagenet`."""
        return read_tiny_imagenet(root)


class _ImageNet(Reader, name="imagenet"):
    """ImageNet-1k as its archive unpacks."""

    asked = 7

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """See `is_imagenet`."""
        return is_imagenet(root)

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """See `read_imagenet`."""
        return read_imagenet(root)
