"""Names and folders in place of networks and data sets: what `distill` makes of them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from torch import nn

from understudy.core.image_size import ImageSize
from understudy.core.networks import checked_network, copied
from understudy.data import DataSplits, open_data
from understudy.data.augment.crops import first_samples
from understudy.data.config import DataConfig
from understudy.data.sources.base import as_unit
from understudy.data.sources.found import split_name
from understudy.models import Network, create_model, network_of
from understudy.models.network import Prepare
from understudy.utils.errors import UserError, shortened_repr
from understudy.utils.hashing import fingerprint, hashed
from understudy.utils.seeding import seeded
from understudy.utils.untrusted import given_path

__all__ = ["as_setting", "checked_or_named", "folder_of", "is_folder", "network_from", "splits_at"]


def checked_or_named(given: Any, *, role: str) -> Any:
    """A network that can be used; names are looked up later, where the classes are known."""
    if isinstance(given, str) or (given is None and role == "teacher"):
        return given
    return checked_network(given, role=role, trains=role == "student")


def as_setting(given: nn.Module | str) -> dict[str, Any]:
    """What a recipe says of it: the name, or class and weights of a network that was handed over."""
    if isinstance(given, str):
        return {"model": given}
    return {"model": type(given).__name__, "weights": fingerprint(given.state_dict())}


def is_folder(train: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether data are named, as a folder, a file or what --data takes, instead of handed over."""
    return isinstance(train, str | os.PathLike)


def folder_of(train: str | os.PathLike[str], val: Any, test: Any) -> str:
    """What data.root is to be: `train` itself, or the folder that it, val and test lie in.

    Raises:
        UserError: val or test lie elsewhere, or are no folders.
    """
    root = os.fspath(train)
    others = [other for other in (val, test) if other is not None]
    if not others:
        return root
    if not all(map(is_folder, others)):
        got = shortened_repr(next(other for other in others if not is_folder(other)))
        raise UserError(f"val and test must be folders where train is one, got {got}; or hand over data sets")
    named = {"train": root, **{role: os.fspath(given) for role, given in (("val", val), ("test", test)) if given}}
    paths = {role: given_path(given, what=role).resolve() for role, given in named.items()}
    is_split = all(path.is_dir() and split_name(path.name) == role for role, path in paths.items())
    parents = {path.parent for path in paths.values()}
    if not is_split or len(parents) > 1:
        wanted = ", ".join(f"FOLDER/{role}" for role in named)
        got = ", ".join(f"{role}={given!r}" for role, given in named.items())
        raise UserError(
            f"{got}: folders of splits must lie beside each other ({wanted}), with a folder for each class; or hand "
            "over data sets"
        )
    return str(Path(root).parent)


def splits_at(config: DataConfig, root: str) -> DataSplits:
    """The splits of a folder, for networks that were handed over."""
    return open_data(config.model_copy(update={"root": root}))


def network_from(
    given: Any, *, role: str, data: DataSplits, config: DataConfig, seed: int, image_size: ImageSize | None = None
) -> Network:
    """The network that was handed over, or the one of a name, with pretrained weights where they can be had.

    One by name normalises images itself where they are in [0,1], as a folder's are; data sets whose values reach
    beyond are taken to be normalised. One that was handed over sees images as they are.

    Args:
        given: a network or a name such as timm:resnet18.
        role: "student" or "teacher".
        data: that it has a class each of.
        config: of the data.
        seed: of weights that are drawn.
        image_size: that images have; None: as the network likes.

    Raises:
        UserError: no such network, or none for these images.
    """
    num_classes = len(data.classes)
    if not isinstance(given, str):
        return network_of(copied(given, role=role), num_classes=num_classes, channels=data.channels)
    if data.channels != 3:
        raise UserError(f"{role} {given!r}: networks by name take 3 channels, and these images have {data.channels}")
    size = config.image_size or image_size
    with seeded(hashed(seed, role)):
        network = create_model(given, num_classes=num_classes, image_size=size, mean=data.mean, std=data.std)
    return network if _is_unit(data) else replace(network, prepare=Prepare(size=network.prepare.size))


def _is_unit(data: DataSplits) -> bool:
    """Whether the first images are in [0,1], as far as they are told."""
    images = [as_unit(image) for image in first_samples(data.train)]
    return all(bool((image >= 0).all() and (image <= 1).all()) for image in images)
