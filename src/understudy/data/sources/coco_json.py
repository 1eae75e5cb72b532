"""COCO's json files: instances_train*.json and instances_val*.json beside folders of images."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.data.sources.boxed import (
    MOST_SIDE,
    BoxedImage,
    box_source,
    is_number,
    refuse_missing,
    refuse_outside_paths,
)
from understudy.data.sources.found import Found, SplitName, split_name
from understudy.utils.errors import UserError, shortened_repr
from understudy.utils.text import plural
from understudy.utils.untrusted import text_of, visible

__all__ = ["is_coco", "is_coco_for_sure", "read_coco"]

MOST_BYTES = 2**31  # COCO's own training file has 470 MB
UNDIVIDED = ("_annotations.coco.json", "result.json", "instances_default.json")  # beside images/, of all images
_SPLIT = re.compile(r"(train|val|valid|test)(?![a-z])", re.IGNORECASE)


def is_coco(root: Path) -> bool:
    """Whether COCO's json files lie there."""
    return bool(_files(root))


def is_coco_for_sure(root: Path) -> bool:
    """Whether they lie where nothing else does, in annotations/, or under a name that tools give them."""
    files = _files(root).values()
    return any(file.parent.name == "annotations" or file.name in UNDIVIDED for file in files)


def read_coco(root: Path) -> Found:
    """The splits of COCO's json files.

    Classes are the categories in the order of their ids, which may have holes. Images are looked for beside the file,
    in a folder of its split, or in `images/`.

    Args:
        root: with `annotations/instances_train*.json` and so on, or with `train/_annotations.coco.json`; a lone file
            that names no split, such as `annotations/instances_default.json`, is train.

    Raises:
        UserError: no file of boxes to train on, a file that is not in COCO's form, images that are not there, splits
            of other categories.
    """
    files = _files(root)
    if "train" not in files:
        raise UserError(
            f"{root} has no COCO file of training boxes; it should hold annotations/instances_train.json, and images "
            "in train/ or images/train/"
        )
    classes: tuple[str, ...] | None = None
    splits, notes = {}, []
    for split, file in files.items():
        content = _content(file)
        names, numbers = _categories(content, file)
        if classes not in (None, names):
            raise UserError(f"{file} has other categories than {files['train']}; give both the same ones")
        if split == "train" and (doubled := len(numbers) - len(names)):
            has = plural(doubled, "category has", "categories have")
            notes.append(f"train: {has} the name of another, and is taken for the same class")
        classes = names
        folder, images = _images(root, split, content, numbers, file)
        splits[split], counts = box_source(folder, images)
        notes += counts.said(split)
        if split == "train" and not counts.boxes:
            raise UserError(f"{file} has no box to learn from")
    assert classes is not None
    return Found(name="coco", classes=classes, splits=splits, notes=tuple(notes))


def _files(root: Path) -> dict[SplitName, Path]:
    """The file of each split; of several the one with the shortest name, instances_ before others."""
    found: dict[SplitName, Path] = {}
    candidates = [*root.glob("annotations/*.json"), *root.glob("*.json"), *root.glob("*/_annotations.coco.json")]
    of_boxes = [file for file in candidates if not re.match(r"(captions|panoptic|person_keypoints|stuff)_", file.name)]
    for file in sorted(of_boxes, key=lambda file: (not file.name.startswith("instances"), len(file.name), str(file))):
        word = file.parent.name if file.name.startswith("_") else next(iter(_SPLIT.findall(file.stem)), "")
        split = split_name(word)
        if split is not None:
            found.setdefault(split, file)
    if not found and (alone := _undivided(root, of_boxes)) is not None:
        found["train"] = alone
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _undivided(root: Path, files: list[Path]) -> Path | None:
    """The one file of images that are not divided, as CVAT (instances_default.json) and Label Studio write it."""
    named = [file for file in files if file.parent.name == "annotations" or file.name in UNDIVIDED]
    return named[0] if len(named) == 1 and named[0].parent in (root, root / "annotations") else None


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(text_of(file, most_bytes=MOST_BYTES))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is no JSON ({error})") from None
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(_are_objects(content.get(key)) for key in keys):
        raise UserError(f"{file} is not in COCO's form: an object with the lists images, annotations and categories")
    return content


def _are_objects(entries: Any) -> bool:
    return isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)


def _categories(content: Mapping[str, Any], file: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names by class, and the class of each id."""
    ids = [category.get("id") for category in content["categories"]]
    if not ids or not all(isinstance(one, int) for one in ids) or len(set(ids)) < len(ids):
        raise UserError(f"{file}: categories need ids, whole numbers that differ")
    ordered = sorted(content["categories"], key=lambda category: int(category["id"]))
    called = [visible(str(category.get("name", category["id"]))) for category in ordered]
    names = tuple(dict.fromkeys(called))  # of one name is one class: some tools list a group beside its only member
    return names, {int(category["id"]): names.index(name) for category, name in zip(ordered, called, strict=True)}


def _images(
    root: Path, split: SplitName, content: Mapping[str, Any], numbers: Mapping[int, int], file: Path
) -> tuple[Path, list[BoxedImage]]:
    """The folder of the images, and the images with their boxes in the order of the file."""
    known: dict[Any, tuple[str, tuple[int, int]]] = {}
    for image in content["images"]:
        number, name = image.get("id"), image.get("file_name")
        height, width = image.get("height"), image.get("width")
        if not isinstance(number, int | str):
            raise UserError(f"{file}: image {shortened_repr(number)} needs an id, a number or text")
        if not isinstance(name, str) or not all(
            isinstance(side, int) and 0 < side <= MOST_SIDE for side in (height, width)
        ):
            raise UserError(
                f"{file}: image {shortened_repr(number)} needs file_name, and height and width, whole numbers of pixels"
            )
        known[number] = refuse_outside_paths(name, what=str(file)), (height, width)
    if len(known) < len(content["images"]):
        raise UserError(f"{file}: two images have one id")
    rows: dict[Any, list[tuple[list[float], int, bool, float]]] = defaultdict(list)
    for number, annotation in enumerate(content["annotations"]):
        image_id, row = _row(annotation, numbers, f"{file}: annotation {annotation.get('id', number)}")
        if not isinstance(image_id, int | str) or image_id not in known:
            raise UserError(
                f"{file}: annotation {annotation.get('id', number)} is of image {shortened_repr(image_id)}, which the "
                "file does not list"
            )
        rows[image_id].append(row)
    paths = [path for path, _ in known.values()]
    folder = _folder(root, split, file, paths)
    refuse_missing(folder, paths, what=str(file))
    images = []
    for image_id, (path, size) in known.items():
        boxes, labels, crowd, areas = zip(*rows[image_id], strict=True) if rows[image_id] else ((), (), (), ())
        images.append(BoxedImage(path, size, boxes, labels, crowd, areas))
    return folder, images


def _row(annotation: Mapping[str, Any], numbers: Mapping[int, int], what: str) -> tuple[Any, Any]:
    """The image's id, and corners, class, whether it is a crowd, area."""
    box: Any = annotation.get("bbox")
    category: Any = annotation.get("category_id")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise UserError(f"{what} has no box of four numbers, but {shortened_repr(box)}")
    if not isinstance(category, int) or category not in numbers:
        raise UserError(f"{what} is of category {shortened_repr(category)}, which the file does not list")
    left, top, width, height = (float(side) for side in box)
    area = annotation.get("area")
    has_area = is_number(area) and area > 0
    corners = [left, top, left + width, top + height]
    is_crowd = bool(annotation.get("iscrowd", 0))
    return annotation.get("image_id"), (corners, numbers[category], is_crowd, area if has_area else width * height)


def _folder(root: Path, split: SplitName, file: Path, paths: list[str]) -> Path:
    """Where the images lie: the first folder that has the first of them."""
    word = next(iter(re.findall(r"(?:train|val|valid|test)\w*", file.stem)), split)
    named = [word, split, f"{split}2017", file.stem.removeprefix("instances_")]
    if not paths:
        instead = "" if split == "train" else "; take it away, and a part of train is held out where there is no val"
        raise UserError(f"{file} lists no images{instead}")
    places = [file.parent, *(root / name for name in named), *(root / "images" / name for name in named)]
    places += [root / "images", root]
    for place in places:
        if (place / paths[0]).is_file():
            return place
    raise UserError(
        f"{file} names {plural(len(paths), 'image')}, such as {paths[0]}, that are in none of "
        f"{', '.join(str(place) for place in places)}; put them into one of these"
    )
