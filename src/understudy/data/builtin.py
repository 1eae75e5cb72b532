"""Data sets that a library knows by name: CIFAR as torchvision stores it, and scikit-learn's digits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from understudy.config import UserError
from understudy.data.found import Found, SplitName
from understudy.data.sources import TensorSource

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
    """scikit-learn's 1,797 handwritten digits: 8x8 greys of 0..16, here (3,8,8) of 0..255. One split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.from_numpy(digits.images / 16 * 255).round().to(torch.uint8)  # (N,8,8)
    source = TensorSource(grey[:, None].repeat(1, 3, 1, 1), torch.from_numpy(digits.target).to(torch.int64))
    return Found("digits", tuple(str(name) for name in digits.target_names), {"train": source})
