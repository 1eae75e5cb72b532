"""Settings of the data: where they are, how they are divided, loaded and augmented."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from understudy.core.config import Config
from understudy.core.image_size import ImageSize
from understudy.data.augment.config import AugmentSetting, MixConfig
from understudy.data.sources.readers import AUTO, format_named

__all__ = ["DataConfig", "parsed_rows"]


class DataConfig(Config):
    """Which images, how they are divided into train, val and test, and how they reach the models."""

    root: str  # a folder or file, several with commas between them, "hf:NAME" for the hub, or "digits"
    format: str = AUTO  # a reader's name; auto: by what lies there; see `understudy.data.readers`
    image_column: str = "image"  # parquet and hub; where it is missing, the only column of images is taken
    label_column: str = "label"  # likewise, of numbers or names of classes, or of masks
    streaming: bool = False  # hub only: images are never stored, and so have no numbers (no bank, no CRD)

    train_rows: str | None = None  # "0:10000" of the training split, in its stored order
    per_class: int | None = Field(default=None, ge=1)  # train on the first so many of each class, in stored order
    fraction: float | None = Field(default=None, gt=0, lt=1)  # train on this share of each class, by hash of split_seed
    unlabelled: str | None = None  # a folder of images, in any order: train learns from the teacher alone on them
    val_rows: str | None = None  # takes the validation from the training split
    val: Literal["auto", "test"] = "auto"  # auto: val_rows, else a val split, else held out; test: as the papers did
    val_fraction: float = Field(default=0.2, gt=0, lt=1)  # held out, class by class, where there is no val split
    split_seed: int = 0  # of what is held out, and of what fraction takes

    batch_size: int = Field(default=64, ge=1, le=1_000_000)  # images a step, over all processes
    eval_batch_size: int = Field(default=256, ge=1, le=1_000_000)  # images of a pass that only evaluates
    drop_last: bool = False  # True: the last batch of an epoch is left out where it is smaller
    sampling: Literal["shuffled", "balanced"] = "shuffled"  # balanced: classes equally often, small ones repeated
    image_size: ImageSize | None = None  # pixels, of squares, or [height, width]; None: the model's own
    grey_range: Literal["auto"] | tuple[float, float] = (
        "auto"  # values that become black and white, of greys of more than 8 bits; auto: by the training images
    )
    exif_rotation: bool = True  # image files are turned upright as their EXIF orientation says
    class_names: str | None = None  # of masks: a file with the name of a class a line; None: as the folder says
    class_map: dict[int, int] | None = None  # of masks: the class of each value, others are ignored; None: the value is
    ignored: int = Field(default=255, ge=0, le=255)  # of masks: the value of pixels without a class
    shorter_side: int | None = Field(default=None, ge=8)  # of images with masks or boxes, brought to it; None: as is
    shorter_sides: tuple[int, ...] | None = None  # of images with boxes: one drawn in training, the largest evaluated
    longer_side: int = Field(default=1333, ge=8)  # of images with boxes, at most
    aspect_groups: bool = False  # of images with boxes: upright ones and others in batches of their own; less padding
    copies: Literal["none", "rotations", "pairs"] = "none"  # rotations: by 90, 180, 270 degrees; pairs: a second view
    repeats: int = Field(
        default=1, ge=1, le=16
    )  # views of a sample in a row; an epoch shows as many images all the same
    augment: AugmentSetting = "auto"  # its name or a mapping with one; auto: by the size of the images
    second_augment: AugmentSetting | None = (
        None  # of the second view of copies: pairs, say a stronger one (which mlld wants); None: as the first
    )
    mix: MixConfig | None = None  # Mixup and CutMix

    on_bad_image: Literal["skip", "stop"] = "skip"  # what to do about a file that cannot be read; it is said
    workers: int | None = Field(default=None, ge=0, le=512)  # None: one per core, at most 8; unused where cached
    cache: Literal["auto", "resized"] | bool = (
        "auto"  # auto: images of one size up to 64 pixels (see `takes_rectangles`); refused where they do not fit;
        # resized: larger training images, too, scaled down to 1.143 times their input size and kept as JPEG
    )
    decode: Literal["workers", "gpu", "auto"] = "workers"  # who decodes and crops resized ones; auto: the faster, timed
    augment_on: Literal["workers", "device"] = (
        "workers"  # where all but crop and flip of small images is done; device: in whole batches, by other draws
    )

    @field_validator("root", mode="before")
    @classmethod
    def _may_be_a_list(cls, value: Any) -> Any:
        is_list = isinstance(value, list | tuple) and value and all(isinstance(part, str) for part in value)
        return ",".join(value) if is_list else value

    @field_validator("root", "unlabelled")
    @classmethod
    def _names_something(cls, value: str | None) -> str | None:
        if value is not None and not value.strip(" ,"):  # of a variable of the shell that is not set, mostly
            raise ValueError("is empty; name a folder (. is the current one)")
        return value

    @property
    def takes_rectangles(self) -> bool:
        """Whether small images that are no squares are kept as they are; under one number, squares are cut of them."""
        return not isinstance(self.image_size, int)

    @field_validator("format")
    @classmethod
    def _is_read_by_somebody(cls, name: str) -> str:
        return format_named(name)

    @field_validator("train_rows", "val_rows")
    @classmethod
    def _are_rows(cls, value: str | None) -> str | None:
        if value is not None:
            parsed_rows(value)
        return value

    @field_validator("grey_range")
    @classmethod
    def _is_a_range(cls, value: Literal["auto"] | tuple[float, float]) -> Literal["auto"] | tuple[float, float]:
        if value != "auto" and value[0] >= value[1]:
            raise ValueError(f"must be [BLACK, WHITE] with BLACK < WHITE, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _mixes_no_copies(self) -> DataConfig:
        if self.mix is not None and self.copies != "none":
            raise ValueError(f"mix and copies: {self.copies} do not go together: copies would show several samples")
        return self

    @model_validator(mode="after")
    def _has_a_second_view(self) -> DataConfig:
        if self.second_augment is not None and self.copies != "pairs":
            raise ValueError("second_augment is of the second view of each image; set copies: pairs, or leave it out")
        return self

    @model_validator(mode="after")
    def _is_augmented_in_one_place(self) -> DataConfig:
        if self.augment_on == "device" and self.decode == "auto":
            raise ValueError(
                "augment_on: device and decode: auto do not go together: the workers that auto may choose augment what "
                "they decode; say decode: gpu"
            )
        return self

    @model_validator(mode="after")
    def _repeats_what_it_can(self) -> DataConfig:
        if self.repeats > 1 and self.copies != "none":
            raise ValueError(f"repeats and copies: {self.copies} both show a sample several times; leave one out")
        if self.repeats > self.batch_size:
            raise ValueError(f"repeats: {self.repeats} views of a sample do not fit a batch_size of {self.batch_size}")
        return self

    @model_validator(mode="after")
    def _names_one_val(self) -> DataConfig:
        if self.val == "test" and self.val_rows is not None:
            raise ValueError("val: test and val_rows both say where the validation comes from; leave one out")
        return self

    @model_validator(mode="after")
    def _takes_one_part(self) -> DataConfig:
        if self.per_class is not None and self.fraction is not None:
            raise ValueError("per_class and fraction both say how much of train is used; leave one out")
        if self.streaming and (unusable := self._unusable_in_a_stream()):
            raise ValueError(f"streaming: images that are never stored cannot go with {', '.join(unusable)}")
        return self

    def _unusable_in_a_stream(self) -> list[str]:
        names = ("per_class", "fraction", "unlabelled")
        unusable = [name for name in names if getattr(self, name) is not None]
        is_balanced = self.sampling == "balanced"
        is_cached = self.cache is True or self.cache == "resized"
        unusable += [f"cache: {str(self.cache).lower()}"] * is_cached + ["sampling: balanced"] * is_balanced
        return unusable + [f"repeats: {self.repeats}"] * (self.repeats > 1)


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
