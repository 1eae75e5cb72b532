"""Class-per-folder trees: ROOT/train/CLASS/... with ROOT/val and ROOT/test beside it, or one tree ROOT/CLASS/..."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image

from understudy.data.sources.base import FileSource, Source
from understudy.data.sources.decoding import is_image_file, printable
from understudy.data.sources.found import Found, SplitName, split_name
from understudy.data.sources.readers import Reader
from understudy.utils.errors import UserError
from understudy.utils.text import listed, plural

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["image_files", "is_named_as_image", "read_folder", "read_trees"]

# Opening a header takes about 0.1 ms; above this number of files names must do, and damage shows when it is met.
MOST_CHECKED_FILES = 100_000
LEFT_BY_SYSTEMS = (".", "__MACOSX", "@eaDir", "$RECYCLE.BIN")  # folders of these beginnings hold no class
MOST_NAMED = 10  # folders in a note

_HEIC = {".heic", ".heif"}


def read_folder(
    root: Path, layout: Literal["folder", "splits", "classes"] = "folder", *, apart: str | None = None
) -> Found:
    """The splits of a class-per-folder tree. A class's images may lie in folders of their own below it.

    Args:
        root: the folder.
        layout: "splits" takes the folders train, val and test for splits, "classes" every folder for a class; "folder"
            decides by what lies in them (see `_split_folders`).
        apart: a folder below it that is read as something else (data.unlabelled).

    Raises:
        UserError: no images, an empty class folder, or a class in val or test that train lacks.
    """
    if layout == "classes":
        return read_trees(root, {"train": root})
    folders, notes = _split_folders(root, apart, is_given=layout == "splits")
    if folders and "train" not in folders:
        raise UserError(f"{root} has {', '.join(sorted(folders))} but no train; put CLASS/*.jpg into {root / 'train'}")
    found = read_trees(root, folders or {"train": root})
    return replace(found, notes=(*found.notes, *notes))


def _split_folders(root: Path, apart: str | None, *, is_given: bool) -> tuple[dict[SplitName, Path], list[str]]:
    """The folders of `root` that are splits, none where all are classes, and what a person should be told.

    A name such as train alone makes no split: its images must lie in class folders, and no folder beside the splits
    may hold images, unless two of them hold classes of one name, as no two classes would.

    Raises:
        UserError: folders named as splits whose images lie in no class folder, and nothing else.
    """
    folders = [folder for folder in _subfolders(root) if apart is None or folder.resolve() != Path(apart).resolve()]
    named = {name: folder for folder in folders if (name := split_name(folder.name))}
    beside = [folder for folder in folders if folder not in named.values() and _holds_image(folder)]
    flat = [name for name, folder in named.items() if _loose_images(folder) and not _class_folders(folder)]
    if not named or is_given:
        return named, _not_read(root, named, beside)
    taken = ", ".join(sorted(folder.name for folder in named.values()))
    taken += " is taken for a class" if len(named) == 1 else " are taken for classes"
    if "train" in flat or len(flat) == len(named):
        if beside:
            loose = ", ".join(sorted(named[name].name for name in flat))
            return {}, [f"{taken}, as the images of {loose} lie in no class folder"]
        raise UserError(
            f"{root} has no class folders: the images of {', '.join(sorted(flat))} lie in no folder of a class; it "
            "should hold train/CLASS/*.jpg or CLASS/*.jpg (for classes of these names, set data.format=classes)"
        )
    shared = set.intersection(*(set(_class_folders(folder)) for name, folder in named.items() if name not in flat))
    if beside and (len(named) - len(flat) < 2 or not shared):
        classes = ", ".join(printable(folder.name) for folder in beside[:MOST_NAMED])
        takes = "it for a split" if len(named) == 1 else "them for splits"
        return {}, [f"{taken}, beside {classes} (data.format=splits takes {takes}, and leaves the others out)"]
    splits = {name: folder for name, folder in named.items() if name not in flat}
    return splits, _not_read(root, splits, [*(named[name] for name in flat), *beside])


def _not_read(root: Path, splits: Mapping[SplitName, Path], folders: Sequence[Path]) -> list[str]:
    """What holds images and is left out, since the folders of the splits are read."""
    if not splits:
        return []
    left = [f"{printable(folder.name)}/" for folder in folders]
    for folder in (root, *splits.values()):
        if num_loose := len(_loose_images(folder)):
            where = "this folder" if folder == root else f"{folder.name}/"
            left.append(f"{plural(num_loose, 'image')} directly in {where}")
    shown = listed(left, MOST_NAMED)
    read = ", ".join(f"{folder.name}/CLASS" for folder in splits.values())
    return [f"not read: {shown}, since {read} are (data.format=classes takes every folder for a class)"] if left else []


def _class_folders(folder: Path) -> list[str]:
    """Names of the folders in it that hold images, or anything that may have been meant for one."""
    return [path.name for path in _subfolders(folder) if next(_files_below(path, set()), None) is not None]


def _holds_image(folder: Path) -> bool:
    return any(is_named_as_image(Path(path)) for path in _files_below(folder, set()))


def _loose_images(folder: Path) -> list[str]:
    """Images directly in a folder, by their names."""
    try:
        return [
            entry.name for entry in os.scandir(folder) if not _is_folder(entry) and is_named_as_image(Path(entry.name))
        ]
    except PermissionError:
        raise _may_not_read(folder) from None


def read_trees(root: Path, folders: Mapping[SplitName, Path], *, val_words: str = "val folder") -> Found:
    """The splits of several FOLDER/CLASS/... trees below `root`, "train" among them.

    Raises:
        UserError: as `read_folder`.
    """
    listing = {split: _files_by_class(folder) for split, folder in folders.items()}
    classes = tuple(listing["train"])
    if not classes or not any(map(len, listing["train"].values())):
        num_loose = len(_loose_images(root))
        has = f"holds {num_loose} images, but in no folder of a class" if num_loose else "has no images"
        raise UserError(f"{root} {has}; it should hold train/CLASS/*.jpg or CLASS/*.jpg")
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
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(LEFT_BY_SYSTEMS))
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
                f"{split} has {plural(len(unknown), 'class', 'classes')} that train lacks: {', '.join(unknown[:10])}; "
                f"train has: {', '.join(list(map(printable, listing['train']))[:10])}. Put images into "
                f"train, too, rename the folder, or take it out of {split}"
            )


def _check_none_empty(listing: Mapping[SplitName, Mapping[str, list[str]]], folders: Mapping[SplitName, Path]) -> None:
    empty = [printable(folders[split] / name) for split, files in listing.items() for name in files if not files[name]]
    if empty:
        raise UserError(
            f"{plural(len(empty), 'class folder holds', 'class folders hold')} no image: {', '.join(empty[:10])}; "
            "put images there or take the folder away"
        )


def _without_bad_files(listing: Mapping[SplitName, dict[str, list[str]]], root: Path) -> list[str]:
    """Take the files that are no images out of the listing, and return their names."""
    num_files = sum(len(paths) for files in listing.values() for paths in files.values())
    is_image = is_image_file if num_files <= MOST_CHECKED_FILES else is_named_as_image
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


def is_named_as_image(path: Path) -> bool:
    """Whether a file has the ending of an image file, whatever is in it."""
    return path.suffix.lower() in Image.registered_extensions()


def _source(files: Mapping[str, list[str]], root: Path, classes: tuple[str, ...]) -> Source:
    number_of = {name: number for number, name in enumerate(classes)}
    labelled = [(_below(root, path), number_of[name]) for name, paths in files.items() for path in paths]
    labels = torch.tensor([label for _, label in labelled], dtype=torch.int64)
    return FileSource(root, [path for path, _ in labelled], labels)


def _below(root: Path, path: str) -> str:
    return path.removeprefix(f"{root}{os.sep}")  # os.path.relpath takes 10 us, 13 s for ImageNet


class _Folder(Reader, name="folder"):
    """A folder for each class, or for each split with those in it, as what lies there tells."""

    asked = 8

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether it is a folder at all: whoever knows better was asked before."""
        return root.is_dir()

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """See `read_folder`."""
        return read_folder(root, apart=config.unlabelled)


class _Splits(Reader, name="splits"):
    """A folder for each split, where their names leave it open."""

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """See `read_folder`."""
        return read_folder(root, "splits", apart=config.unlabelled)


class _Classes(Reader, name="classes"):
    """A folder for each class, where their names leave it open."""

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """See `read_folder`."""
        return read_folder(root, "classes", apart=config.unlabelled)
