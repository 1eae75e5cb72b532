"""Class-per-folder trees: ROOT/train/CLASS/... with ROOT/val and ROOT/test beside it, or one tree ROOT/CLASS/..."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from PIL import Image

from understudy.config import UserError
from understudy.data.found import Found, SplitName, split_name
from understudy.data.images import is_image_file
from understudy.data.sources import FileSource, Source

__all__ = ["read_folder"]

# Opening a header takes about 0.1 ms; above this number of files names must do, and damage shows when it is met.
MOST_CHECKED_FILES = 100_000


def read_folder(root: Path) -> Found:
    """The splits of a class-per-folder tree. A class's images may lie in folders of their own below it.

    Raises:
        UserError: no images, an empty class folder, or a class in val or test that train lacks.
    """
    folders = {name: folder for folder in _subfolders(root) if (name := split_name(folder.name))}
    if folders and "train" not in folders:
        raise UserError(f"{root} has {', '.join(sorted(folders))} but no train; put CLASS/*.jpg into {root / 'train'}")
    listing = {split: _files_by_class(folder) for split, folder in (folders or {"train": root}).items()}
    classes = tuple(listing["train"])
    if not classes or not any(map(len, listing["train"].values())):
        raise UserError(f"{root} has no images; it should hold train/CLASS/*.jpg or CLASS/*.jpg")
    _check_classes(listing)
    no_images = _without_bad_files(listing, root)
    _check_none_empty(listing, folders or {"train": root})
    splits = {split: _source(files, root, classes) for split, files in listing.items()}
    return Found(root.name, classes, splits, val_words="val folder", no_images=tuple(no_images))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    return {path.name: sorted(_files_below(path)) for path in _subfolders(folder)}


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (Path(parent, name) for name in names)


def _check_classes(listing: Mapping[SplitName, Mapping[str, list[Path]]]) -> None:
    for split, files in listing.items():
        unknown = [name for name in files if name not in listing["train"]]
        if unknown:
            raise UserError(
                f"{split} has {_counted(unknown, 'class', 'classes')} that train lacks: {', '.join(unknown[:10])}; "
                f"train has: {', '.join(list(listing['train'])[:10])}"
            )


def _check_none_empty(listing: Mapping[SplitName, Mapping[str, list[Path]]], folders: Mapping[SplitName, Path]) -> None:
    empty = [str(folders[split] / name) for split, files in listing.items() for name in files if not files[name]]
    if empty:
        raise UserError(
            f"{_counted(empty, 'class folder holds', 'class folders hold')} no image: {', '.join(empty[:10])}; "
            "put images there or take the folder away"
        )


def _without_bad_files(listing: Mapping[SplitName, dict[str, list[Path]]], root: Path) -> list[str]:
    """Take the files that are no images out of the listing, and return their names."""
    num_files = sum(len(paths) for files in listing.values() for paths in files.values())
    is_image = is_image_file if num_files <= MOST_CHECKED_FILES else _is_named_as_image
    bad: list[str] = []
    for files in listing.values():
        for name, paths in files.items():
            checked = [(path, is_image(path)) for path in paths]
            files[name] = [path for path, is_good in checked if is_good]
            bad += [str(path.relative_to(root)) for path, is_good in checked if not is_good]
    return bad


def _is_named_as_image(path: Path) -> bool:
    return path.suffix.lower() in Image.registered_extensions()


def _source(files: Mapping[str, list[Path]], root: Path, classes: tuple[str, ...]) -> Source:
    number_of = {name: number for number, name in enumerate(classes)}
    labelled = [(str(path.relative_to(root)), number_of[name]) for name, paths in files.items() for path in paths]
    labels = torch.tensor([label for _, label in labelled], dtype=torch.int64)
    return FileSource(root, [path for path, _ in labelled], labels)


def _counted(items: list[str], one: str, many: str) -> str:
    return f"{len(items)} {one if len(items) == 1 else many}"
