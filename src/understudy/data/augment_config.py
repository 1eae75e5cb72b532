"""Settings of the augmentation: what a training image goes through before a model sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from understudy.config import Config, unknown_name

__all__ = ["Augment", "AugmentSetting", "CropFlip", "NoAugment", "ResizedCrop"]


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


AugmentSetting = Annotated[Literal["auto"] | Augment, BeforeValidator(_augment_from)]
