"""Settings of the augmentation and of the mixing of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from understudy.core.config import Config
from understudy.data.augment.policies import check_auto_augment, check_rand_augment
from understudy.utils.errors import unknown_name

__all__ = [
    "Augment",
    "AugmentParts",
    "AugmentSetting",
    "CropFlip",
    "MixConfig",
    "NoAugment",
    "ResizedCrop",
    "RotateFlip",
    "ScaleCrop",
]


class NoAugment(Config):
    """Images as they are evaluated."""

    name: Literal["none"] = "none"  # which augmentation


class AugmentParts(Config):
    """What may follow crop and flip, in the order in which it is applied (timm's); a part that is off is not written.

    Each part that is named is applied: timm's create_transform, and with it DeiT, leaves colour jitter out wherever
    RandAugment is on, whatever its `color_jitter` says.
    """

    interpolation: Literal["bilinear", "bicubic", "random"] = "bilinear"  # of scaling; random: one of the two
    rand_augment: str | None = None  # "rand-m9-mstd0.5-inc1": timm's notation; DeiT's, and DIST's strategy B2
    auto_augment: str | None = None  # "original", "v0", ...: timm's notation
    color_jitter: float = Field(default=0.0, ge=0)  # brightness, contrast and saturation, up to so much; DeiT: 0.4
    erasing: float = Field(default=0.0, ge=0, le=1)  # probability of one erased rectangle; DeiT: 0.25, DIST B2: 0.2
    erase_mode: Literal["pixel", "rand", "const"] = "pixel"  # noise for each pixel, one random colour, the mean colour

    @property
    def policy(self) -> str | None:
        """RandAugment or AutoAugment, of which there is one at most."""
        return self.rand_augment or self.auto_augment

    @property
    def has_parts(self) -> bool:
        """Whether anything follows crop and flip."""
        return self.policy is not None or self.color_jitter > 0 or self.erasing > 0

    @property
    def needs_each_image(self) -> bool:
        """Whether any of it is done image by image only."""
        return self.has_parts or self.interpolation != "bilinear"

    @field_validator("rand_augment", "auto_augment")
    @classmethod
    def _is_known_to_timm(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return value
        (check_rand_augment if info.field_name == "rand_augment" else check_auto_augment)(value)
        if info.data.get("rand_augment"):
            raise ValueError("auto_augment and rand_augment take each other's place; leave one out")
        return value

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        parts = AugmentParts.model_fields
        own = {key: value for key, value in fields.items() if key not in parts}
        return own | {key: fields[key] for key in parts if key in fields and fields[key] != parts[key].default}


class CropFlip(AugmentParts):
    """A random window of the zero-padded image, mirrored half of the time."""

    name: Literal["crop_flip"] = "crop_flip"  # which augmentation
    pad: int = Field(default=4, ge=0)  # pixels on each side; 4 for 32x32, He et al. 2016 section 4.2
    flip: bool = True  # mirror left to right, with probability 1/2


class ResizedCrop(AugmentParts):
    """A random part of the image, scaled to the input size, mirrored half of the time."""

    name: Literal["resized_crop"] = "resized_crop"  # which augmentation
    scale: tuple[float, float] = (0.08, 1.0)  # share of the image's area, Szegedy et al. 2015 section 6
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height, as a multiple of the input's own
    flip: bool = True  # mirror left to right, with probability 1/2

    @field_validator("scale", "ratio")
    @classmethod
    def _is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"must be [low, high] with 0 < low <= high, got {list(value)}")
        return value


class RotateFlip(AugmentParts):
    """The image turned about its centre, black where nothing is, mirrored half of the time; no crop.

    As the field trains on Tiny-ImageNet (Zhao et al., "DOT: A Distillation-Oriented Trainer", ICCV 2023).
    """

    name: Literal["rotate_flip"] = "rotate_flip"  # which augmentation
    degrees: float = Field(default=20.0, ge=0, le=180)  # at most, to either side
    flip: bool = True  # mirror left to right, with probability 1/2


class ScaleCrop(Config):
    """Image and mask scaled by one factor, a window of both of the input's size, mirrored half of the time."""

    name: Literal["scale_crop"] = "scale_crop"  # which augmentation
    scale: tuple[float, float] = (0.5, 2.0)  # factor of the image's sides; torchvision's reference, CIRKD's code
    step: float | None = Field(default=None, gt=0)  # factors in steps of so much; CIRKD's code: 0.1; None: any
    flip: bool = True  # mirror left to right, with probability 1/2

    @field_validator("scale")
    @classmethod
    def _is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 16:
            raise ValueError(f"must be [low, high] with 0 < low <= high <= 16, got {list(value)}")
        return value

    def factor(self, draw: float) -> float:
        """The factor for a draw in [0,1)."""
        low, high = self.scale
        if self.step is None:
            return low + draw * (high - low)
        return low + self.step * int(draw * (int((high - low) / self.step + 1e-9) + 1))


Augment = NoAugment | CropFlip | ResizedCrop | RotateFlip | ScaleCrop
_AUGMENTS: dict[str, type[Augment]] = {
    "none": NoAugment,
    "crop_flip": CropFlip,
    "resized_crop": ResizedCrop,
    "rotate_flip": RotateFlip,
    "scale_crop": ScaleCrop,
}


def _augment_from(value: Any) -> Any:
    """`crop_flip` and `{name: crop_flip, pad: 2}` alike; problems keep the key path of the settings meant."""
    if value == "auto" or isinstance(value, Config):
        return value
    settings = value if isinstance(value, Mapping) else {"name": value}
    if settings and "name" not in settings:
        raise ValueError(f"has {', '.join(map(str, settings))} but no name; set name, too: {', '.join(_AUGMENTS)}")
    name = settings.get("name")
    if not isinstance(name, str) or name not in _AUGMENTS:
        raise ValueError(f"{name!r} is {unknown_name(str(name), ['auto', *_AUGMENTS])}")
    return _AUGMENTS[name].nested(settings)


AugmentSetting = Annotated[Literal["auto"] | Augment, BeforeValidator(_augment_from)]


class MixConfig(Config):
    """Images and labels of a batch mixed in pairs; the defaults are DeiT's (Touvron et al., ICML 2021, table 9)."""

    mixup: float = Field(default=0.8, ge=0)  # alpha of the share's Beta(alpha, alpha); 0: no Mixup
    cutmix: float = Field(default=1.0, ge=0)  # likewise; 0: no CutMix
    prob: float = Field(default=1.0, gt=0, le=1)  # of mixing at all
    switch_prob: float = Field(default=0.5, ge=0, le=1)  # of CutMix, where both are on
    mode: Literal["batch", "pair", "elem"] = "batch"  # what shares one draw: the batch, a pair of images, none

    @model_validator(mode="after")
    def _mixes(self) -> MixConfig:
        if self.mixup == 0 and self.cutmix == 0:
            raise ValueError("mixup and cutmix are both 0, so nothing is mixed; leave mix out")
        return self
