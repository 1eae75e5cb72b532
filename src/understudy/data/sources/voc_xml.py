"""Pascal VOC's folders: an xml file for each image in Annotations/, images in JPEGImages/."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from understudy.data.sources.boxed import (
    MOST_SIDE,
    BoxedImage,
    box_source,
    is_number,
    refuse_missing,
    refuse_outside_paths,
)
from understudy.data.sources.found import Found, SplitName
from understudy.utils.errors import UserError
from understudy.utils.untrusted import text_of, visible

__all__ = ["is_voc_boxes", "read_voc_boxes"]

MOST_BYTES = 2**22  # of one xml file
_LISTS: tuple[SplitName, ...] = ("train", "val", "test")


def is_voc_boxes(root: Path) -> bool:
    """Whether xml files lie there as VOC has them."""
    return next((_home(root) / "Annotations").glob("*.xml"), None) is not None


def read_voc_boxes(root: Path) -> Found:
    """The splits of a VOC folder, as ImageSets/Main lists them; without lists all images are train.

    Corners are counted from 1 there, with the last pixel inside; here they are edges, so that a box of one pixel has
    an area. Objects marked difficult are kept as crowds are: no error where they are found, and not learnt from.

    Args:
        root: VOC2012, or a folder with VOCdevkit/VOC2012 in it.

    Raises:
        UserError: no xml files, one that cannot be read, images that are not there, no box to train on.
    """
    home = _home(root)
    listed = {split: _names(home / "ImageSets" / "Main" / f"{split}.txt") for split in _LISTS}
    if not listed["train"]:
        listed = {"train": sorted(file.stem for file in (home / "Annotations").glob("*.xml"))}
    trees = {split: [_tree(home, name) for name in names] for split, names in listed.items() if names}
    if not trees.get("train"):
        raise UserError(f"{root} has no Annotations/*.xml; VOC keeps an xml file for each image there")
    # Of all splits: a rare class may not be in each.
    classes = sorted({_text(found, "name", name) for split in trees.values() for name, tree in split for found in
                      tree.findall("object")})  # fmt: skip
    numbers = {name: number for number, name in enumerate(classes)}
    splits, notes = {}, []
    for split, entries in trees.items():
        images = [_image(name, tree, numbers) for name, tree in entries]
        refuse_missing(home / "JPEGImages", [image.path for image in images], what=str(home / "Annotations"))
        splits[split], counts = box_source(home / "JPEGImages", images)
        notes += counts.said(split)
    if not classes:
        raise UserError(f"{home / 'Annotations'}: no file has an object to learn from")
    return Found(name="voc", classes=tuple(map(visible, classes)), splits=splits, notes=tuple(notes))


def _home(root: Path) -> Path:
    """The folder that holds Annotations."""
    return next((path for path in [root, *sorted(root.glob("VOCdevkit/VOC*"), reverse=True)]
                 if (path / "Annotations").is_dir()), root)  # fmt: skip


def _names(file: Path) -> list[str]:
    """The images of a list; none where there is no list."""
    if not file.is_file():
        return []
    return [line.split()[0] for line in text_of(file, most_bytes=2**26).splitlines() if line.strip()]


def _tree(home: Path, name: str) -> tuple[str, ElementTree.Element]:
    file = home / "Annotations" / f"{refuse_outside_paths(name, what=str(home))}.xml"
    text = text_of(file, most_bytes=MOST_BYTES)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UserError(f"{file} declares entities, which can make a small file endless; take the declaration out")
    try:
        return name, ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(f"{file} is no XML ({error})") from None


def _image(name: str, tree: ElementTree.Element, numbers: Mapping[str, int]) -> BoxedImage:
    size = int(_number(tree, "size/height", name)), int(_number(tree, "size/width", name))
    if min(size) < 1 or max(size) > MOST_SIDE:
        raise UserError(f"{name}.xml: the image has no size, but {size[1]} x {size[0]}")
    path = refuse_outside_paths(_text(tree, "filename", name), what=f"{name}.xml")
    boxes, labels, crowd = [], [], []
    for found in tree.findall("object"):
        left, top, right, bottom = (_number(found, f"bndbox/{side}", name) for side in ("xmin", "ymin", "xmax", "ymax"))
        boxes.append([left - 1, top - 1, right, bottom])
        labels.append(numbers[_text(found, "name", name)])
        crowd.append((found.findtext("difficult") or "0").strip() == "1")
    return BoxedImage(path, size, boxes, labels, crowd)


def _text(tree: ElementTree.Element, path: str, name: str) -> str:
    found = (tree.findtext(path) or "").strip()
    if not found:
        raise UserError(f"{visible(name)}.xml has no <{path.rpartition('/')[2]}>")
    return found


def _number(tree: ElementTree.Element, path: str, name: str) -> float:
    text = _text(tree, path, name)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not is_number(value):
        raise UserError(f"{visible(name)}.xml: <{path.rpartition('/')[2]}> is no number, but {visible(text)[:40]!r}")
    return value
