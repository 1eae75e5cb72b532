"""find: what lies at data.root, whatever its format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from understudy.config import UserError, nearest
from understudy.data.builtin import CIFAR_FOLDERS, read_cifar, read_digits
from understudy.data.columns import Columns
from understudy.data.config import DataConfig
from understudy.data.folders import read_folder
from understudy.data.found import Found
from understudy.data.hub import HUB, is_saved_by_datasets, read_hub
from understudy.data.imagenet import is_imagenet, is_tiny_imagenet, read_imagenet, read_tiny_imagenet
from understudy.data.merging import merged
from understudy.data.parquet import parquet_files, read_parquet
from understudy.untrusted import given_path

__all__ = ["existing", "find", "roots_of"]

Format = Literal[
    "folder", "splits", "classes", "parquet", "cifar10", "cifar100", "tiny-imagenet", "imagenet", "hub", "digits"
]


def find(config: DataConfig) -> Found:
    """The splits at `config.root`; of several roots, put together.

    Raises:
        UserError: nothing there, or not in a form that can be used; the text says what was found and what to do.
    """
    return merged([_found(root, config) for root in roots_of(config.root)])


def roots_of(root: str) -> list[str]:
    """One root, or the several that are written with commas between them."""
    if given_path(root, what="data.root").exists():
        return [root]  # a comma may be part of a name
    return [part.strip() for part in root.split(",") if part.strip()] or [root]


def existing(text: str, key: str) -> Path:
    """The path, if there is something at it.

    Raises:
        UserError: naming the key, the path and the nearest name beside it.
    """
    path = given_path(text, what="data.root")
    if path.exists():
        return path
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, [*beside, *(["digits"] if key == "root" and path.parent == Path() else [])])
    raise UserError(f"data.{key}: there is nothing at {text}" + (f"; did you mean {close}?" if close else ""))


def refuse_absent_root(config: DataConfig) -> None:
    """Raise the UserError that opening the data would, where a folder or file of theirs is not there."""
    if config.format in ("digits", "hub"):
        return
    for root in roots_of(config.root):
        if config.format != "auto" or not (root == "digits" or root.startswith(HUB)):
            existing(root, "root")


def _found(root: str, config: DataConfig) -> Found:
    kind = _format(root, config)
    columns = Columns(config.image_column, config.label_column)
    if kind == "digits":
        return read_digits()
    if kind == "hub":
        return read_hub(root, columns)
    path = given_path(root, what="data.root")
    if kind == "parquet":
        return read_parquet(path, columns)
    if kind == "cifar10" or kind == "cifar100":
        return read_cifar(path, kind)
    if kind == "imagenet" or kind == "tiny-imagenet":
        return {"imagenet": read_imagenet, "tiny-imagenet": read_tiny_imagenet}[kind](path)
    return read_folder(path, kind, apart=config.unlabelled)


def _format(root: str, config: DataConfig) -> Format:
    if config.format == "digits" or (config.format == "auto" and root == "digits"):
        return "digits"
    if config.format == "hub" or (config.format == "auto" and root.startswith(HUB)):
        return "hub"
    path = existing(root, "root")
    if config.format != "auto":
        return config.format
    if parquet_files(path):
        return "parquet"
    for folder, kind in CIFAR_FOLDERS.items():
        if path.name == folder or (path / folder).is_dir():
            return kind
    if not path.is_dir():
        raise UserError(f"data.root: {root} is neither a folder nor a .parquet file")
    if is_saved_by_datasets(path):
        return "hub"
    if is_tiny_imagenet(path):
        return "tiny-imagenet"
    return "imagenet" if is_imagenet(path) else "folder"
