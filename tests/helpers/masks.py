"""Small folders of images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from understudy.data.sources.shapes import drawn_shapes

PALETTE = [number * 7 % 256 for number in range(768)]  # as many colours as there are values


def write_pairs(images: Path, masks: Path, count: int, *, seed: int = 0, side: int = 32, palette: bool = False) -> None:
    """`count` pairs of drawn shapes, a strip of each mask ignored."""
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    pictures, labels = drawn_shapes(count, seed=seed, side=side)
    labels[:, :2] = 255
    for number in range(count):
        Image.fromarray(pictures[number].permute(1, 2, 0).numpy()).save(images / f"{seed}_{number}.png")
        mask = Image.fromarray(labels[number].numpy())
        if palette:
            mask.putpalette(PALETTE)
        mask.save(masks / f"{seed}_{number}.png")


def masks_folder(root: Path, *, train: int = 6, val: int = 4, side: int = 32) -> Path:
    """images/{train,val} and masks/{train,val} with classes.txt."""
    write_pairs(root / "images/train", root / "masks/train", train, seed=1, side=side)
    write_pairs(root / "images/val", root / "masks/val", val, seed=2, side=side)
    (root / "classes.txt").write_text("background\ndisc\nsquare\ntriangle\n")
    return root


def save_mask(file: Path, values: np.ndarray | torch.Tensor) -> None:
    """A mask file of these numbers."""
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(file)
