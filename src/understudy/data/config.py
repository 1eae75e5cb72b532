"""Settings of the data: where they are, how they are divided, loaded and augmented."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from understudy.config import Config
from understudy.data.augment_config import AugmentSetting

__all__ = ["DataConfig", "parsed_rows"]


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
    augment: AugmentSetting = "auto"

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
