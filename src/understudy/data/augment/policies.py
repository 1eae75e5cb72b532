"""timm's RandAugment and AutoAugment, from the strings in which the field writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, cast

from PIL import Image
from timm.data.auto_augment import (
    RandAugment,
    auto_augment_transform,
    posterize,
    rand_augment_transform,
)
from timm.data.transforms import str_to_pil_interp

__all__ = ["check_auto_augment", "check_rand_augment", "fill_colour", "image_policy", "translation"]

_TRANSLATION = 0.45  # of the image's shorter side, as in timm's create_transform
_RAND_PARTS = re.compile(r"(m|n|inc|mmax)\d+|(p|mstd)\d+(\.\d*)?|t(weights|3a|3aw)")
_AUTO_NAMES = ("original", "originalr", "v0", "v0r", "3a")
_AUTO_PART = re.compile(r"mstd\d+(\.\d*)?")

Policy = Callable[[Image.Image], Image.Image]


def check_rand_augment(text: str) -> None:
    """Refuse what timm would refuse, or pass over without a word.

    Raises:
        ValueError: naming the part.
    """
    name, *parts = text.split("-")
    wrong = [part for part in parts if not _RAND_PARTS.fullmatch(part)]
    if name != "rand" or wrong:
        raise ValueError(
            f"{text!r} is no RandAugment of timm's: {(wrong or [name])[0]!r}; it is written rand-m9-mstd0.5-inc1, with "
            "m magnitude, n operations, p probability, mstd, mmax, inc and t(weights|3a|3aw)"
        )


def check_auto_augment(text: str) -> None:
    """As `check_rand_augment`, for AutoAugment.

    Raises:
        ValueError: naming the part.
    """
    name, *parts = text.split("-")
    wrong = [part for part in parts if not _AUTO_PART.fullmatch(part)]
    if name not in _AUTO_NAMES or wrong:
        raise ValueError(
            f"{text!r} is no AutoAugment of timm's: {(wrong or [name])[0]!r}; it is one of {', '.join(_AUTO_NAMES)}, "
            "and may end in -mstd0.5"
        )


@lru_cache(maxsize=16)
def image_policy(text: str, size: int, mean: tuple[float, ...], interpolation: str) -> Policy:
    """The transform of PIL images that timm's create_transform makes of `text`.

    Args:
        text: "rand-..." is RandAugment (Cubuk et al., CVPR Workshops 2020), others are AutoAugment (Cubuk et al., CVPR
            2019).
        size: the images' shorter side in pixels, of which translations are a share.
        mean: of the channels, in [0,1]: the colour of what is moved in.
        interpolation: "bilinear" or "bicubic"; "random" leaves it to each operation.
    """
    settings: dict[str, Any] = {
        "translate_const": translation(size),
        "img_mean": fill_colour(mean),
    }
    if interpolation != "random":
        settings["interpolation"] = str_to_pil_interp(interpolation)  # type: ignore[no-untyped-call]
    policy = (rand_augment_transform if text.startswith("rand") else auto_augment_transform)(text, settings)
    operations = policy.ops if isinstance(policy, RandAugment) else chain.from_iterable(policy.policy)
    for operation in operations:
        if operation.aug_fn is posterize:
            operation.aug_fn = _posterized
    return cast(Policy, policy)


def translation(size: int) -> int:
    """Pixels of the farthest shift of images whose shorter side is `size`."""
    return int(size * _TRANSLATION)


def fill_colour(mean: Sequence[float]) -> tuple[int, ...]:
    """0 to 255, the colour of what is moved in, of means in [0,1]."""
    return tuple(min(255, round(255 * channel)) for channel in mean)


def _posterized(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """timm's, and black where no bit is kept, as m9-mstd0.5-inc1 asks now and then: Pillow 13 refuses 0 bits."""
    if bits_to_keep == 0:
        return Image.new(image.mode, image.size)
    return cast(Image.Image, posterize(image, bits_to_keep))  # type: ignore[no-untyped-call]
