"""Samples of data sets made in Python: how one is taken apart, and its image as a tensor."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from understudy.data.sources.columns import Columns, columns_of
from understudy.data.sources.decoding import BadImageError, from_pil, upright
from understudy.data.sources.grey_range import settle_greys
from understudy.data.sources.greys import Greys, as_8_bits, deep_greys
from understudy.utils.errors import UserError

__all__ = ["DatasetSource", "Taker", "is_hugging_face", "sample_name"]

_LABEL_WORDS = ("label", "class", "target")


def is_hugging_face(dataset: Any) -> bool:
    """Whether this is a map-style data set of the Hugging Face library."""
    return all(hasattr(dataset, name) for name in ("column_names", "features", "with_format"))


class Taker:
    """Takes samples apart: (image, label, ...), or a mapping with one column for each.

    In a mapping, the wanted names are taken; where they are not given and not there, the columns that hold an image and
    a label, by the features of a Hugging Face data set, else by what the first sample holds.

    Args:
        wanted: names of the two columns.
        dataset: whose samples are taken apart.
    """

    def __init__(self, wanted: Columns, dataset: Any) -> None:
        self._wanted = wanted
        self._what = type(dataset).__name__
        self._by_features = _columns_by_features(dataset, wanted) if is_hugging_face(dataset) else None
        self._columns: Columns | None = None

    @property
    def label_column(self) -> str | None:
        """As the features of a Hugging Face data set tell it; None of others."""
        return None if self._by_features is None else self._by_features.label

    def image(self, sample: Any) -> Any:
        """Its image, as it is."""
        return self._parts(sample)[0]

    def label(self, sample: Any) -> Any:
        """Its label, as it is."""
        return self._parts(sample)[1]

    def _parts(self, sample: Any) -> tuple[Any, Any]:
        if isinstance(sample, Mapping):
            if self._columns is None:
                self._columns = self._chosen(sample)
            return sample[self._columns.image], sample[self._columns.label]
        if isinstance(sample, Sequence) and not isinstance(sample, str | bytes) and len(sample) >= 2:
            return sample[0], sample[1]
        raise UserError(
            f"a sample of {self._what} is {_described(sample)}; (image, label), or a mapping with a column for each, "
            "is wanted"
        )

    def _chosen(self, sample: Mapping[str, Any]) -> Columns:
        for columns in (self._wanted, self._by_features):
            if columns is not None and columns.image in sample and columns.label in sample:
                return columns
        images = [name for name, value in sample.items() if _is_image(value)]
        image = self._one(sample, self._wanted.image, "image", images)
        labels = [name for name in sample if name != image and any(word in str(name).lower() for word in _LABEL_WORDS)]
        return Columns(image, self._one(sample, self._wanted.label, "label", labels))

    def _one(self, sample: Mapping[str, Any], wanted: str, kind: str, alike: Sequence[str]) -> str:
        if wanted in sample:
            return wanted
        if wanted == getattr(Columns(), kind) and len(alike) == 1:
            return alike[0]
        several = f" ({' and '.join(alike)} could both be meant)" if len(alike) > 1 else ""
        raise UserError(
            f"a sample of {self._what} has no column {wanted!r}; it has: {', '.join(map(str, sample))}{several}; set "
            f"data.{kind}_column (settings={{'data': {{'{kind}_column': NAME}}}})"
        )


class DatasetSource:
    """A map-style data set, asked for a sample whenever its image is wanted.

    Args:
        dataset: of (image, label) or of mappings; images are PIL, (H,W) or (D,H,W) tensors or arrays, or (H,W,D)
            arrays. Floating-point ones stay as they are, whole numbers become uint8.
        labels: (N,) int64.
        taker: takes its samples apart.
        channels: D of all images, to which one channel is repeated; None: as they come, one repeated to three.
    """

    def __init__(self, dataset: Any, labels: Tensor, taker: Taker, channels: int | None = None) -> None:
        self.dataset = dataset
        self.labels = labels
        self.greys: Greys | None = None  # see `settle_greys`; chosen at the first image that needs it, if not before
        self.channels = channels
        self.taker = taker

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> Tensor:
        """The sample's image; its own transform runs now."""
        try:
            image = self.stored(i)
            if self.greys is None and _deep_pixels(image) is not None:
                settle_greys(self, (), "auto")
            if isinstance(image, Image.Image):
                return from_pil(image, self.greys, channels=1 if self.channels == 1 else 3)
            return _with_channels(self.as_tensor(image), self.channels)
        except OSError as error:  # what PIL raises at a damaged file
            raise BadImageError(f"{self.name(i)}: {error}") from None

    def as_tensor(self, image: Any) -> Tensor:
        """(D,H,W) of a tensor or array as the data set gives it: floats as they are, whole numbers as uint8."""
        return _as_tensor(image, self.greys)

    def stored(self, i: int) -> Any:
        """The image as the data set gives it. Raises OSError where it cannot be read."""
        return _opened(self.taker.image(self.dataset[i]))

    def deep_greys(self, i: int) -> np.ndarray[Any, Any] | None:
        """Pixels of an image of whole numbers of more than 8 bits, or of a floating-point PIL image; else None."""
        try:
            return _deep_pixels(self.stored(i))
        except OSError:
            return None

    def name(self, i: int) -> str:
        """The path, where the data set lists `samples` as ImageFolder does, else the number."""
        return sample_name(self.dataset, i)


def sample_name(dataset: Any, i: int) -> str:
    """What messages call sample i."""
    samples = getattr(dataset, "samples", None)
    return str(samples[i][0]) if samples else f"sample {i}"


def _columns_by_features(dataset: Any, wanted: Columns) -> Columns | None:
    """By the features; None where these settle nothing, as a transform may yet."""
    try:
        return columns_of(dataset.features.arrow_schema, wanted, type(dataset).__name__)
    except UserError:
        return None


def _is_file(value: Any) -> bool:
    """Whether this is a file as Hugging Face's `Image(decode=False)` gives it."""
    return isinstance(value, Mapping) and value.keys() == {"bytes", "path"}


def _opened(value: Any) -> Any:
    """The image within a file's bytes, or at its path, upright as Hugging Face decodes it; anything else as it is."""
    if not _is_file(value):
        return value
    return upright(Image.open(value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"])))


def _is_image(value: Any) -> bool:
    return (
        _is_file(value)
        or isinstance(value, Image.Image)
        or (isinstance(value, Tensor | np.ndarray) and value.ndim in (2, 3))
    )


def _described(sample: Any) -> str:
    if isinstance(sample, tuple | list):
        return f"a {type(sample).__name__} of {len(sample)}"
    return f"of type {type(sample).__name__}"


def _as_array(image: Any) -> np.ndarray[Any, Any]:
    """Values of a type that numpy knows, too: bfloat16 as float32."""
    if isinstance(image, Tensor) and image.is_floating_point():
        image = image.float()
    return image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)


def _deep_pixels(image: Any) -> np.ndarray[Any, Any] | None:
    if isinstance(image, Image.Image):
        return deep_greys(image)
    pixels = _as_array(image)
    return pixels if _is_deep(pixels) else None


def _is_deep(pixels: np.ndarray[Any, Any]) -> bool:
    return bool(np.issubdtype(pixels.dtype, np.integer)) and pixels.dtype != np.uint8


def _as_tensor(image: Any, greys: Greys | None) -> Tensor:
    """(D,H,W) of a tensor or array: floats as they are, whole numbers as uint8."""
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[0] > 4 and image.shape[2] in (1, 3, 4):
        image = image.transpose(2, 0, 1)  # channels last, as numpy, OpenCV and scikit-image have them
    if not isinstance(image, Tensor) or (
        not image.is_floating_point() and image.dtype not in (torch.uint8, torch.bool)
    ):
        pixels = _as_array(image)
        image = torch.from_numpy(np.ascontiguousarray(as_8_bits(pixels, greys) if _is_deep(pixels) else pixels))
    tensor: Tensor = image[None] if image.ndim == 2 else image
    if tensor.is_complex():
        raise UserError(f"an image is of {str(tensor.dtype).removeprefix('torch.')}; give its absolute or real part")
    if tensor.ndim != 3 or (tensor.shape[2] in (1, 3, 4) and tensor.shape[0] not in (1, 3)):
        raise UserError(
            f"an image has shape {tuple(tensor.shape)}; (3,H,W), (1,H,W), (H,W), another number of channels first, or "
            "a PIL image is wanted"
        )
    return tensor


def _with_channels(tensor: Tensor, channels: int | None) -> Tensor:
    wanted = channels or (3 if tensor.shape[0] == 1 else tensor.shape[0])
    if tensor.shape[0] == wanted:
        return tensor
    if tensor.shape[0] == 1:
        return tensor.expand(wanted, -1, -1)
    raise UserError(
        f"an image has {tensor.shape[0]} channels, but the images go to the networks with {wanted}; give all images "
        "equally many, and as many as the networks take"
    )
