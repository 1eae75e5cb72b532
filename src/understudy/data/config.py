"""Settings of the data: where they are, how they are divided, loaded and augmented."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from understudy.config import Config, unknown_name

__all__ = ["Augment", "CropFlip", "DataConfig", "NoAugment", "ResizedCrop", "parsed_rows"]


class NoAugment(Config):
    """Images as they are evaluated."""

    name: Literal["none"] = "none"


class CropFlip(Config):
    """A random window of the zero-padded image, mirrored half of the time."""

    name: Literal["crop_flip"] = "crop_flip"
    pad: int = Field(default=4, ge=0)  # pixels on each side; 4 for 32x32, He et al. 2016 section 4.2
    flip: bool = True


class ResizedCrop(Config):
    """A random part of the image, scaled to the input size, mirrored half of the time."""

    name: Literal["resized_crop"] = "resized_crop"
    scale: tuple[float, float] = (0.08, 1.0)  # share of the image's area, Szegedy et al. 2015 section 6
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    flip: bool = True

    @field_validator("scale", "ratio")
    @classmethod
    def _is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"must be [low, high] with 0 < low <= high, got {list(value)}")
        return value


Augment = NoAugment | CropFlip | ResizedCrop
_AUGMENTS: dict[str, type[Augment]] = {"none": NoAugment, "crop_flip": CropFlip, "resized_crop": ResizedCrop}


def _augment_from(value: Any) -> Any:
    """`crop_flip` and `{name: crop_flip, pad: 2}` alike; problems keep the key path of the settings meant."""
    if value == "auto" or isinstance(value, Config):
        return value
    settings = value if isinstance(value, Mapping) else {"name": value}
    name = settings.get("name")
    if name not in _AUGMENTS:
        raise ValueError(f"{name!r} is {unknown_name(str(name), ['auto', *_AUGMENTS])}")
    return _AUGMENTS[name].nested(settings)


class DataConfig(Config):
    """Which images, how they are divided into train, val and test, and how they reach the models."""

    root: str  # a class-per-folder tree, parquet file or folder, CIFAR folder as torchvision stores it, or "digits"
    format: Literal["auto", "folder", "parquet", "cifar10", "cifar100", "digits"] = "auto"
    image_column: str = "image"  # parquet only
    label_column: str = "label"

    train_rows: str | None = None  # "0:10000" of the training split, in its stored order
    val_rows: str | None = None  # takes the validation from the training split
    val: Literal["auto", "test"] = "auto"  # auto: val_rows, else a val split, else held out; test: as the papers did
    val_fraction: float = Field(default=0.2, gt=0, lt=1)  # held out, class by class, where there is no val split
    split_seed: int = 0

    batch_size: int = Field(default=64, ge=1)
    eval_batch_size: int = Field(default=256, ge=1)
    drop_last: bool = False
    image_size: int | None = Field(default=None, ge=1)  # pixels; None: the model's own
    copies: Literal["none", "rotations"] = "none"  # rotations: each image also turned by 90, 180 and 270 degrees
    augment: Annotated[Literal["auto"] | Augment, BeforeValidator(_augment_from)] = "auto"

    on_bad_image: Literal["skip", "stop"] = "skip"
    workers: int | None = Field(default=None, ge=0)  # None: one per core, at most 8; unused where images are cached
    cache: Literal["auto"] | bool = "auto"  # auto: equal-sized images of at most 64 pixels that fit into memory

    @field_validator("train_rows", "val_rows")
    @classmethod
    def _are_rows(cls, value: str | None) -> str | None:
        if value is not None:
            parsed_rows(value)
        return value

    @model_validator(mode="after")
    def _names_one_val(self) -> DataConfig:
        if self.val == "test" and self.val_rows is not None:
            raise ValueError("val: test and val_rows both say where the validation comes from; leave one out")
        return self


def parsed_rows(text: str) -> tuple[int, int | None]:
    """(start, stop) of "START:STOP"; either may be left out, a stop of None means the end.

    Raises:
        ValueError: another form, or an empty range.
    """
    match = re.fullmatch(r"(\d*):(\d*)", text.replace("_", ""))
    if match is None:
        raise ValueError(f"rows are written START:STOP, as in 0:10000, got {text!r}")
    start, stop = int(match[1] or 0), int(match[2]) if match[2] else None
    if stop is not None and stop <= start:
        raise ValueError(f"rows {text} are none: START must be below STOP")
    return start, stop
