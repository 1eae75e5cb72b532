"""YOLO's folders: a data.yaml, and a txt file for each image in labels/ beside images/."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from understudy.data.sources.base import Source
from understudy.data.sources.boxed import BoxCounts, BoxedImage, box_source
from understudy.data.sources.decoding import UNREADABLE, is_image_file, printable, size_from_header
from understudy.data.sources.folders import is_named_as_image
from understudy.data.sources.found import Found, SplitName
from understudy.utils.errors import UserError, shortened_repr
from understudy.utils.text import plural
from understudy.utils.untrusted import plain_yaml, text_of, visible

__all__ = ["is_yolo", "read_yolo"]

MOST_BYTES = 2**22  # of one txt file
_KEYS: tuple[SplitName, ...] = ("train", "val", "test")


def is_yolo(root: Path) -> bool:
    """Whether it is a data.yaml of YOLO's, or a folder with one."""
    file = _yaml_of(root)
    return file is not None and {"train", "names"} <= _settings(file).keys()


def has_yolo_labels(root: Path) -> bool:
    """Whether txt files lie in labels/ beside images/, with a data.yaml that says what they mean or without one."""
    return any(
        folder.is_dir() and (folder.parent / "images").is_dir() and _holds_texts_alone(folder)
        for folder in (root / "labels", *root.glob("*/labels"))
    )


def _holds_texts_alone(folder: Path) -> bool:
    files = [path for path in (*folder.glob("*"), *folder.glob("*/*")) if path.is_file()]
    return any(path.suffix == ".txt" for path in files) and not any(map(is_named_as_image, files))


def read_yolo(root: Path, *, applies_exif: bool = True) -> Found:
    """The splits of a data.yaml, unchanged as Ultralytics and YOLOX read it.

    A line of a txt file is a class and a box's middle, width and height as shares of the image; or a class and the
    corners of a polygon, of which the box around it is taken. An image without a file, or with an empty one, has no
    box.

    Args:
        root: the yaml file, or a folder with data.yaml (or one other yaml) in it.
        applies_exif: whether images are turned upright, so that their boxes are on what is seen then.

    Raises:
        UserError: no such file, a split without images, a line that is none, a class beyond the names.
    """
    file = _yaml_of(root)
    if file is None:
        raise UserError(
            f"{root} has no data.yaml (or other single yaml file); YOLO's says where images lie and what classes are "
            "called, such as\n  train: images/train\n  val: images/val\n  names: [cat, dog]"
        )
    settings = _settings(file)
    classes = _names(settings.get("names"), file)
    base = file.parent / str(settings.get("path") or ".")
    base = base if base.is_dir() else file.parent  # the yaml of a data set that was moved
    splits: dict[SplitName, Source] = {}
    notes: list[str] = []
    no_images: list[str] = []
    for split in _KEYS:
        places = settings.get(split)
        if not places:
            continue
        files = [path for place in (places if isinstance(places, list) else [places]) for path in _files(base, place)]
        images = [path for path in files if is_image_file(path)]
        no_images += [f"{split}: {printable(_below(base, path))}" for path in sorted({*files} - {*images})]
        if not images:
            raise UserError(f"{file}: {split} names {shortened_repr(places)}, where no image is below {base}")
        boxed = [_boxed(base, path, len(classes), applies_exif=applies_exif) for path in images]
        splits[split], counts = box_source(base, boxed)
        _say_if_unlabelled(split, counts, notes)
        notes += counts.said(split)
    if "train" not in splits:
        raise UserError(f"{file} names no training images; set train: a folder of images, or a list of them")
    return Found(name="yolo", classes=classes, splits=splits, notes=tuple(notes), no_images=tuple(no_images))


def _say_if_unlabelled(split: SplitName, counts: BoxCounts, notes: list[str]) -> None:
    if counts.boxes:
        return
    if split == "train":
        raise UserError("no training image has a box: a txt file of its name should lie in labels/ beside images/")
    notes.append(f"{split}: no image has a box")


def _yaml_of(root: Path) -> Path | None:
    if root.suffix in (".yaml", ".yml"):
        return root if root.is_file() else None
    files = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    named = [file for file in files if file.stem == "data"]
    return (named or files)[0] if named or len(files) == 1 else None


def _settings(file: Path) -> dict[str, Any]:
    found = plain_yaml(text_of(file, most_bytes=200_000), what=str(file))
    return found if isinstance(found, dict) else {}


def _names(names: Any, file: Path) -> tuple[str, ...]:
    """Class names in order, of a list or of a mapping from numbers."""
    if isinstance(names, Mapping):
        numbered = {int(key): value for key, value in names.items() if str(key).isdigit()}
        if sorted(numbered) == list(range(len(names))):
            names = [numbered[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{file}: names should be a list of class names, or number them from 0 without gaps")
    called = tuple(visible(str(name)) for name in names)
    if doubled := next((name for name in called if called.count(name) > 1), None):
        raise UserError(f"{file}: names has {doubled!r} twice; give each class a name of its own")
    return called


def _files(base: Path, place: Any) -> list[Path]:
    """Files named as images in a folder, or those that a txt file lists."""
    path = _found_at(base, str(place))
    if path.is_file():
        lines = [line.strip() for line in text_of(path, most_bytes=2**28).splitlines() if line.strip()]
        found = [(path.parent / line if line.startswith("./") else base / line) for line in lines]
        missing = [image for image in found if not image.is_file()]
        if missing:
            raise UserError(
                f"{path} names {plural(len(missing), 'image that is', 'images that are')} not there, such as "
                f"{printable(missing[0])}"
            )
        return found
    files = (file for file in path.rglob("*") if is_named_as_image(file) and not file.name.startswith("."))
    return sorted(files) if path.is_dir() else []


def _found_at(base: Path, place: str) -> Path:
    """Where a place of the yaml is; of one that is not there, its last folders below the yaml's.

    So that a yaml which was moved, or says ../train/images of train/images beside it, as Roboflow's do, is read.
    """
    path = base / place
    parts = [part for part in PurePosixPath(place.replace("\\", "/")).parts if part not in ("..", "/")]
    shorter = [base.joinpath(*parts[start:]) for start in range(len(parts)) if start == 0 or len(parts) - start > 1]
    return next((found for found in (path, *shorter) if found.exists()), path)


def _below(base: Path, path: Path) -> Path:
    return path.relative_to(base) if path.is_relative_to(base) else path


def _boxed(base: Path, path: Path, num_classes: int, *, applies_exif: bool) -> BoxedImage:
    try:
        with Image.open(path) as image:
            height, width = size_from_header(image, applies_exif=applies_exif)
    except UNREADABLE as error:
        raise UserError(f"{printable(path)} cannot be read ({error}); take it away") from None
    file = _labels_of(path)
    boxes: list[list[float]] = []
    labels: list[int] = []
    text = text_of(file, most_bytes=MOST_BYTES) if file.is_file() else ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        label, corners = _line(line.split(), num_classes, f"{printable(file)}, line {number}")
        labels.append(label)
        boxes.append([side * scale for side, scale in zip(corners, (width, height) * 2, strict=True)])
    return BoxedImage(str(_below(base, path)), (height, width), boxes, labels)


def _labels_of(image: Path) -> Path:
    """labels/a/b.txt of images/a/b.jpg, the last folder of that name counting; else beside the image."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _line(words: Sequence[str], num_classes: int, what: str) -> tuple[int, list[float]]:
    """Class, and corners as shares of the image."""
    try:
        label, *shares = int(words[0]), *map(float, words[1:])
    except ValueError:
        raise UserError(
            f"{what}: a class number and numbers are wanted, got {shortened_repr(' '.join(words))}"
        ) from None
    if not 0 <= label < num_classes:
        raise UserError(f"{what}: class {label} has no name; names has {num_classes} (0..{num_classes - 1})")
    if not all(math.isfinite(share) for share in shares) or any(abs(share) > 10 for share in shares):
        raise UserError(f"{what}: shares of the image are wanted, 0 to 1, got {shortened_repr(' '.join(words))}")
    if len(shares) == 4:
        x, y, width, height = shares
        return label, [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    if len(shares) < 6 or len(shares) % 2:
        raise UserError(f"{what}: a box has four numbers behind its class, a polygon six or more, got {len(shares)}")
    return label, [min(shares[::2]), min(shares[1::2]), max(shares[::2]), max(shares[1::2])]
