"""Blueprint: how to build one network, and what it expects of its images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from understudy.config import UserError
from understudy.models.hub import first_line

__all__ = ["Blueprint", "Normalisation", "refusals_said", "stated_size"]

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # (mean, std) per channel, in [0,1] units


@dataclass(frozen=True, slots=True)
class Blueprint:
    """How to build one network, and what it expects of its images."""

    build: Callable[[], nn.Module]  # with random weights
    pretrained: Callable[[], nn.Module] | None  # raises NotToBeHadError; None where no weights were ever published
    normalisation: Normalisation | None  # its own; None: the data's
    prefers: int | None  # side in pixels; None: any
    resize_to: int | None  # side in pixels; None: images are taken as they come
    kwargs: Mapping[str, Any]  # everything but num_classes that the constructor gets


@contextmanager
def refusals_said(name: str, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """A library's refusal of the arguments in `kwargs`, as a UserError."""
    try:
        yield
    except Exception as error:  # a network's constructor may fail in any way
        if not kwargs:
            raise
        given = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        raise UserError(
            f"{name} cannot be built with {given}: {first_line(error)}; change or leave that out"
        ) from error


def stated_size(name: str, kwargs: Mapping[str, Any], key: str, image_size: int | None) -> int | None:
    """The side in pixels that a network is built for: what its own arguments say, else `image_size`.

    Raises:
        UserError: they say another than `image_size`, or sides of two lengths.
    """
    stated = kwargs.get(key)
    if stated is None:
        return image_size
    sides = set(stated) if isinstance(stated, list | tuple) else {stated}
    side = sides.pop() if len(sides) == 1 else None
    if not isinstance(side, int) or isinstance(side, bool) or side < 1:
        raise UserError(f"{name}: kwargs say {key}={stated!r}, and one number of pixels is wanted: images are square")
    if image_size not in (None, side):
        raise UserError(
            f"{name}: kwargs say {key}={side}, and an image size of {image_size} is asked for; leave one of them out"
        )
    return side
