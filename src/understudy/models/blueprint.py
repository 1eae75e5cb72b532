"""Blueprint: how to build one network, and what it expects of its images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from understudy.core.image_size import ImageSize, size_from, size_text, squares_note
from understudy.models.hub import WeightsUnavailableError, first_line
from understudy.utils.errors import UserError

__all__ = ["Blueprint", "Normalisation", "refusals_said", "stated_size"]

SIZE_KEYS = ("img_size", "image_size")  # what constructors call it

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # (mean, std) per channel, in [0,1] units


@dataclass(frozen=True, slots=True)
class Blueprint:
    """How to build one network, and what it expects of its images."""

    build: Callable[[], nn.Module]  # with random weights
    pretrained: Callable[[], nn.Module] | None  # raises NotToBeHadError; None where no weights were ever published
    normalisation: Normalisation | None  # its own; None: the data's
    prefers: ImageSize | None  # None: any
    resize_to: ImageSize | None  # None: images are taken as they come
    kwargs: Mapping[str, Any]  # everything but num_classes that the constructor gets


@contextmanager
def refusals_said(name: str, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """A library's refusal of the arguments in `kwargs`, as a UserError."""
    try:
        yield
    except WeightsUnavailableError:  # says nothing of the arguments
        raise
    except Exception as error:  # a network's constructor may fail in any way
        if not kwargs:
            raise
        given = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        size = next((kwargs[key] for key in SIZE_KEYS if key in kwargs), None)
        raise UserError(
            f"{name} cannot be built with {given}: {first_line(error)}; change or leave that out{squares_note(size)}"
        ) from error


def stated_size(name: str, kwargs: Mapping[str, Any], key: str, image_size: ImageSize | None) -> ImageSize | None:
    """The image size that a network is built for: what its own arguments say, else `image_size`.

    Raises:
        UserError: they say another than `image_size`, or what is no size.
    """
    stated = kwargs.get(key)
    if stated is None:
        return image_size
    try:
        size = size_from(stated)
    except ValueError as error:
        raise UserError(f"{name}: kwargs say {key}={stated!r}: it {error}") from None
    if image_size not in (None, size):
        assert image_size is not None
        raise UserError(
            f"{name}: kwargs say {key}={size_text(size)}, and an image size of {size_text(image_size)} is asked for; "
            "leave one of them out"
        )
    return size
