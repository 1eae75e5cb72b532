"""Greys of 10 to 16 bits, signed and floating-point ones: scaled by their data set, or refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from understudy.data import DataConfig, DataSplits, dataset_splits, open_data
from understudy.data.sources.decoding import decoded
from understudy.utils.errors import UserError

Pixels = np.ndarray[Any, Any]


def encoded(pixels: Pixels, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def grey(*values: float, dtype: Any = np.uint16) -> Pixels:
    """An image of 4x4 that holds these values, the first one everywhere else."""
    pixels = np.full(16, values[0], dtype)
    pixels[: len(values)] = values
    return pixels.reshape(4, 4)


def tree(root: Path, images: dict[str, list[Pixels]], kind: str = "PNG") -> Path:
    for folder, all_pixels in images.items():
        (root / folder).mkdir(parents=True)
        for i, pixels in enumerate(all_pixels):
            (root / folder / f"{i}.{kind.lower()}").write_bytes(encoded(pixels, kind))
    return root


def levels(data: DataSplits, i: int = 0) -> list[int]:
    return sorted(set(data.train.image(i).flatten().tolist()))


def as_folder(images: list[Pixels], root: Path) -> DataSplits:
    return open_data(DataConfig(root=str(tree(root / "pets", {"train/a": images, "val/a": images}))))


def as_parquet(images: list[Pixels], root: Path) -> DataSplits:
    table = pa.table({"image": [{"bytes": encoded(pixels), "path": None} for pixels in images], "label": [0, 1, 0]})
    for split in ("train", "val"):
        pq.write_table(table, root / f"{split}.parquet")
    return open_data(DataConfig(root=str(root)))


def as_saved_by_datasets(images: list[Pixels], root: Path, *, streaming: bool = False) -> DataSplits:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": encoded(pixels), "path": None} for pixels in images], "label": [0, 1, 0]}
    one = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": one, "validation": one}).save_to_disk(str(root / "saved"))
    return open_data(DataConfig(root=str(root / "saved"), format="hub", streaming=streaming))


def as_stream(images: list[Pixels], root: Path) -> DataSplits:
    return as_saved_by_datasets(images, root, streaming=True)


def as_pil_in_python(images: list[Pixels], root: Path) -> DataSplits:
    train = [(Image.fromarray(pixels), i % 2) for i, pixels in enumerate(images)]
    return dataset_splits(train, train)


def as_tensors_in_python(images: list[Pixels], root: Path) -> DataSplits:
    train = [(torch.from_numpy(pixels.astype(np.int32)), i % 2) for i, pixels in enumerate(images)]
    return dataset_splits(train, train)


WAYS = [as_folder, as_parquet, as_saved_by_datasets, as_stream, as_pil_in_python, as_tensors_in_python]


@pytest.mark.parametrize("read", WAYS)
def test_12_bits_in_16_are_scaled_by_the_data_set_and_that_is_said(read: Any, tmp_path: Path) -> None:
    data = read([grey(0, 2048), grey(0, 16, 32), grey(0, 4095)], tmp_path)
    assert data.train.image(1)[0, 0, :3].tolist() == [0, 1, 2]  # 256 values of 16, whatever the image's own largest
    assert levels(data, 2) == [0, 255]
    assert data.greys == (0, 4095)
    assert any("0 becomes black and 4095 white (12 bits" in note for note in data.notes)


def test_values_that_lie_close_together_are_stretched_over_all_greys(tmp_path: Path) -> None:
    data = as_folder([grey(28000, 29000), grey(29000, 30000), grey(28500)], tmp_path)
    assert (levels(data, 0), levels(data, 1), levels(data, 2)) == ([0, 127], [127, 255], [63])


def test_16_bits_keep_their_upper_half_and_8_bits_in_16_their_values(tmp_path: Path) -> None:
    wide = as_folder([grey(0, 255, 256, 65535), grey(0), grey(0)], tmp_path / "wide")
    assert levels(wide) == [0, 1, 255]
    small = as_folder([grey(0, 7, 255), grey(0), grey(0)], tmp_path / "small")
    assert levels(small) == [0, 7, 255]


def test_32_bit_integers_of_0_to_255_are_not_black(tmp_path: Path) -> None:
    image = grey(0, 100, 255, dtype=np.int32)
    root = tree(tmp_path / "pets", {"train/a": [image], "val/a": [image]}, "TIFF")
    assert levels(open_data(DataConfig(root=str(root)))) == [0, 100, 255]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (grey(-1000, 900, dtype=np.int16), r"signed numbers \(-1000 \.\. 900\)"),
        (grey(0, 1, dtype=np.float32), "floating-point numbers"),
        (grey(0, 70_000, dtype=np.int32), r"more than 16 bits \(0 \.\. 70000\)"),
    ],
)
def test_pixels_without_a_known_range_are_refused_until_it_is_given(image: Pixels, words: str, tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", {"train/a": [image], "val/a": [image]}, "TIFF")
    config = DataConfig(root=str(root))
    with pytest.raises(UserError, match=rf"{words}, whose range nobody knows; set data\.grey_range"):
        open_data(config)
    given = {"grey_range": (float(image.min()), float(image.max()))}
    assert levels(open_data(config.model_copy(update=given))) == [0, 255]


def test_val_is_scaled_as_train_is_and_clipped_where_it_goes_beyond(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", {"train/a": [grey(0, 1023)], "val/a": [grey(0, 512, 4095)]})
    data = open_data(DataConfig(root=str(root)))
    assert data.val.image(0)[0, 0, :3].tolist() == [0, 128, 255]


def test_an_image_alone_is_scaled_as_a_data_set_of_one() -> None:
    assert decoded(encoded(grey(600, 680)), "a.png").unique().tolist() == [0, 255]
    assert decoded(encoded(grey(0, 600, 680)), "a.png").unique().tolist() == [0, 150, 170]
    assert decoded(encoded(grey(600, 680)), "a.png", (0, 4095)).unique().tolist() == [37, 42]


def test_images_of_8_bits_say_nothing(tmp_path: Path) -> None:
    image = grey(0, 9, dtype=np.uint8)
    data = dataset_splits(ImageFolder(tree(tmp_path / "pets", {"a": [image] * 4, "b": [image] * 4})))
    assert data.greys is None
    assert not any("greys" in note for note in data.notes)


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"grey_range.*must be \[BLACK, WHITE\] with BLACK < WHITE, got \[5\.0, 5\.0\]"):
        DataConfig.read({"root": "x", "grey_range": [5, 5]}, what="data")
