"""Class-per-folder trees: ROOT/train/CLASS/... with ROOT/val and ROOT/test beside it, or one tree ROOT/CLASS/..."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from PIL import Image

from understudy.config import UserError
from understudy.data.found import Found, SplitName, split_name
from understudy.data.images import is_image_file, printable
from understudy.data.sources import FileSource, Source

__all__ = ["image_files", "read_folder", "read_trees"]

# Opening a header takes about 0.1 ms; above this number of files names must do, and damage shows when it is met.
MOST_CHECKED_FILES = 100_000

_HEIC = {".heic", ".heif"}


def read_folder(root: Path) -> Found:
    """The splits of a class-per-folder tree. A class's images may lie in folders of their own below it.

    Raises:
        UserError: no images, an empty class folder, or a class in val or test that train lacks.
    """
    folders = {name: folder for folder in _subfolders(root) if (name := split_name(folder.name))}
    if folders and "train" not in folders:
        raise UserError(f"{root} has {', '.join(sorted(folders))} but no train; put CLASS/*.jpg into {root / 'train'}")
    return read_trees(root, folders or {"train": root})


def read_trees(root: Path, folders: Mapping[SplitName, Path], *, val_words: str = "val folder") -> Found:
    """The splits of several FOLDER/CLASS/... trees below `root`, "train" among them.

    Raises:
        UserError: as `read_folder`.
    """
    listing = {split: _files_by_class(folder) for split, folder in folders.items()}
    classes = tuple(listing["train"])
    if not classes or not any(map(len, listing["train"].values())):
        raise UserError(f"{root} has no images; it should hold train/CLASS/*.jpg or CLASS/*.jpg")
    _check_classes(listing)
    no_images = _without_bad_files(listing, root)
    _check_none_empty(listing, folders)
    splits = {split: _source(files, root, classes) for split, files in listing.items()}
    names = tuple(map(printable, classes))
    return Found(printable(root.name), names, splits, val_words=val_words, no_images=tuple(no_images))


def image_files(folder: Path) -> tuple[list[str], list[str]]:
    """The images anywhere below a folder, as sorted paths relative to it, and the files that are none.

    Raises:
        UserError: a folder below it that may not be read.
    """
    listing = {"": sorted(_files_below(folder, set()))}
    bad = _without_bad_files({"train": listing}, folder)
    return [_below(folder, path) for path in listing[""]], bad


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except PermissionError:
        raise _may_not_read(folder) from None


def _files_by_class(folder: Path) -> dict[str, list[str]]:
    # A link in a class folder that leads back up would make every image one of that class.
    above = {_identity(folder), _identity(folder.parent)}
    return {path.name: sorted(_files_below(path, set(above))) for path in _subfolders(folder)}


def _files_below(folder: str | Path, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Paths of files at any depth, through links too, but never into a folder in `seen`, which grows."""
    if _identity(folder) in seen:
        return
    seen.add(_identity(folder))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError:
        raise _may_not_read(Path(folder)) from None
    for entry in entries:
        if _is_folder(entry):
            yield from _files_below(entry.path, seen)
        else:
            yield entry.path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _may_not_read(folder: Path) -> UserError:
    return UserError(f"{printable(folder)} may not be read (permission denied); change its permissions or move it away")


def _check_classes(listing: Mapping[SplitName, Mapping[str, list[str]]]) -> None:
    for split, files in listing.items():
        unknown = [printable(name) for name in files if name not in listing["train"]]
        if unknown:
            raise UserError(
                f"{split} has {_counted(unknown, 'class', 'classes')} that train lacks: {', '.join(unknown[:10])}; "
                f"train has: {', '.join(list(map(printable, listing['train']))[:10])}"
            )


def _check_none_empty(listing: Mapping[SplitName, Mapping[str, list[str]]], folders: Mapping[SplitName, Path]) -> None:
    empty = [printable(folders[split] / name) for split, files in listing.items() for name in files if not files[name]]
    if empty:
        raise UserError(
            f"{_counted(empty, 'class folder holds', 'class folders hold')} no image: {', '.join(empty[:10])}; "
            "put images there or take the folder away"
        )


def _without_bad_files(listing: Mapping[SplitName, dict[str, list[str]]], root: Path) -> list[str]:
    """Take the files that are no images out of the listing, and return their names."""
    num_files = sum(len(paths) for files in listing.values() for paths in files.values())
    is_image = is_image_file if num_files <= MOST_CHECKED_FILES else _is_named_as_image
    bad: list[str] = []
    for files in listing.values():
        for name, paths in files.items():
            checked = [(path, is_image(Path(path))) for path in paths]
            files[name] = [path for path, is_good in checked if is_good]
            bad += [_described(path, root) for path, is_good in checked if not is_good]
    return bad


def _described(path: str, root: Path) -> str:
    """A path for messages, with the reason where it is not that the file is no image."""
    name = printable(_below(root, path))
    if Path(path).suffix.lower() in _HEIC:
        return f"{name} (HEIC, which Pillow does not read; convert it to JPEG)"
    try:
        with open(path, "rb"):
            return name
    except OSError as error:
        return f"{name} ({(error.strerror or 'unreadable').lower()})"


def _is_named_as_image(path: Path) -> bool:
    return path.suffix.lower() in Image.registered_extensions()


def _source(files: Mapping[str, list[str]], root: Path, classes: tuple[str, ...]) -> Source:
    number_of = {name: number for number, name in enumerate(classes)}
    labelled = [(_below(root, path), number_of[name]) for name, paths in files.items() for path in paths]
    labels = torch.tensor([label for _, label in labelled], dtype=torch.int64)
    return FileSource(root, [path for path, _ in labelled], labels)


def _below(root: Path, path: str) -> str:
    return path.removeprefix(f"{root}{os.sep}")  # os.path.relpath takes 10 us, 13 s for ImageNet


def _counted(items: list[str], one: str, many: str) -> str:
    return f"{len(items)} {one if len(items) == 1 else many}"
