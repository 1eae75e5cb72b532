"""Data sets that are known by name: CIFAR as torchvision stores it, and the digits that come with this package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from understudy.data.sources.base import TensorSource
from understudy.data.sources.found import Found, SplitName
from understudy.data.sources.readers import Reader
from understudy.utils.errors import UserError

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["CIFAR_FOLDERS", "read_cifar", "read_digits"]

CIFAR_FOLDERS: dict[str, Literal["cifar10", "cifar100"]] = {
    "cifar-10-batches-py": "cifar10",
    "cifar-100-python": "cifar100",
}


def read_cifar(root: Path, which: Literal["cifar10", "cifar100"]) -> Found:
    """CIFAR-10 or -100 from the folder that torchvision downloaded it into; nothing is downloaded here.

    Raises:
        UserError: the files are missing or damaged.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    if root.name in CIFAR_FOLDERS:
        root = root.parent
    dataset = {"cifar10": CIFAR10, "cifar100": CIFAR100}[which]
    splits: dict[SplitName, TensorSource] = {}
    names: tuple[tuple[SplitName, bool], ...] = (("train", True), ("test", False))
    for split, is_train in names:
        try:
            stored = dataset(root, train=is_train, download=False)
        except RuntimeError:
            raise UserError(
                f"{root} holds no whole {dataset.base_folder}; "
                f"torchvision.datasets.{dataset.__name__}({str(root)!r}, download=True) fetches it"
            ) from None
        images = torch.from_numpy(stored.data).permute(0, 3, 1, 2).contiguous()
        splits[split] = TensorSource(images, torch.tensor(stored.targets, dtype=torch.int64))
    return Found(which, tuple(stored.classes), splits)


def read_digits() -> Found:
    """UCI's 1,797 digits that scikit-learn has, too: 8x8 greys of 0..16, here (3,8,8) of 0..255. One split."""
    with (resources.files("understudy") / "data" / "digits.npz").open("rb") as file, np.load(file) as digits:
        images, labels = digits["images"], digits["labels"]
    grey = torch.from_numpy(images / 16 * 255).round().to(torch.uint8)  # (N,8,8)
    source = TensorSource(grey[:, None].repeat(1, 3, 1, 1), torch.from_numpy(labels).to(torch.int64))
    return Found("digits", tuple(str(digit) for digit in range(10)), {"train": source})


class _Digits(Reader, name="digits"):
    """UCI's digits, by their name alone."""

    asked = 1
    takes_names = True

    @classmethod
    def is_name(cls, root: str) -> bool:
        """Whether it is their name."""
        return root == "digits"

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """See `read_digits`."""
        return read_digits()


class _Cifar10(Reader, name="cifar10"):
    """CIFAR-10 as torchvision stores it."""

    asked = 3

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether it is torchvision's folder, or holds it."""
        return _is_cifar(root, "cifar-10-batches-py")

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """See `read_cifar`."""
        return read_cifar(root, "cifar10")


class _Cifar100(Reader, name="cifar100"):
    """CIFAR-100 as torchvision stores it."""

    asked = 4

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether it is torchvision's folder, or holds it."""
        return _is_cifar(root, "cifar-100-python")

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """See `read_cifar`."""
        return read_cifar(root, "cifar100")


def _is_cifar(root: Path, folder: str) -> bool:
    return root.name == folder or (root / folder).is_dir()
