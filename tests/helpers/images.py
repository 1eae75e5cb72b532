"""Small real image files, made from a seed, and folders and tables of them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def pixels(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth random pixels: JPEG keeps them nearly as they are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def jpeg_bytes(seed: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """A JPEG file of (height, width)."""
    return _encoded(pixels(seed, *size), quality=95)


def coloured_jpeg(colour: int, seed: int, size: tuple[int, int] = (24, 24)) -> bytes:
    """A JPEG of noise, brightest in channel `colour` modulo 3."""
    noise = np.random.default_rng(seed).integers(0, 100, (*size, 3), dtype=np.uint8)
    noise[..., colour % 3] += 120
    return _encoded(noise)


def write_tree(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (24, 24)) -> Path:
    """So many JPEGs of (height, width) in each folder of `counts`; a class is told by its colour."""
    for number, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            (root / folder / f"{i}.jpg").write_bytes(coloured_jpeg(number, i, size))
    return root


def write_parquet(file: Path, labels: list[Any], image: str = "image", label: str = "label") -> Path:
    """A parquet file of JPEGs, one for each label."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": coloured_jpeg(int(number), i), "path": f"{i}.jpg"} for i, number in enumerate(labels)]
    pq.write_table(pa.table({image: images, label: labels}), file)
    return file


def _encoded(image: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)
    return file.getvalue()
