"""settle_greys: one range of greys for all images of a data set, told to whoever decodes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from understudy.data.sources.base import Source, holders, stored_at
from understudy.data.sources.greys import BIT_DEPTHS, Greys, chosen_greys
from understudy.utils.errors import UserError
from understudy.utils.seeding import globally_seeded

__all__ = ["note_on_greys", "settle_greys", "spread"]

NUM_LOOKED_AT = 32  # of which none has more than 8 bits in nearly all data sets
NUM_MEASURED = 256  # training images whose values settle the range, where there are such


@runtime_checkable
class DecodesGreys(Protocol):
    """A source whose images may have more than 8 bits, which it scales to 8."""

    greys: Greys | None

    def deep_greys(self, i: int) -> np.ndarray[Any, Any] | None:
        """(H,W) or (C,H,W) pixels of image i where they have more than 8 bits; None of others."""


def settle_greys(
    train: Source,
    others: Iterable[Source],
    setting: Literal["auto"] | tuple[float, float],
    *,
    num_looked_at: int = NUM_LOOKED_AT,
) -> Greys | None:
    """Choose the range by the training images, and have all sources scale by it.

    Args:
        train: whose images are looked at: evenly spread ones, the same ones on every call.
        others: that scale as train does.
        setting: data.grey_range.
        num_looked_at: training images, evenly spread, that tell whether there are any of more than 8 bits.

    Returns:
        The range; None where no training image that was looked at has more than 8 bits.

    Raises:
        UserError: signed or floating-point images, of which nothing says what is black and white.
    """
    greys: Greys | None = None if setting == "auto" else setting
    if next(_deep(train, num_looked_at), None) is None:
        found = None
    elif greys is not None:
        found = greys
    else:
        try:
            found = greys = chosen_greys(_deep(train, NUM_MEASURED))
        except UserError as error:
            raise UserError(f"images of more than 8 bits: {error}".replace(" its pixels", " their pixels")) from None
    for source in (train, *others):
        for holder in holders(source):
            if isinstance(holder, DecodesGreys):
                holder.greys = greys
    return found


def note_on_greys(greys: Greys | None) -> list[str]:
    """What is done to greys of more than 8 bits, for people."""
    if greys is None:
        return []
    low, high = (f"{value:g}" for value in greys)
    bits = next((f"{bits} bits; " for bits in BIT_DEPTHS if greys == (0, 2**bits - 1)), "")
    return [
        f"greys of more than 8 bits: {low} becomes black and {high} white "
        f"({bits}data.grey_range=[BLACK,WHITE] sets another range)"
    ]


def spread(count: int, most: int) -> list[int]:
    """At most so many of the numbers 0..count-1, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [0]
    return sorted({i * (count - 1) // (most - 1) for i in range(most)})


def _deep(source: Source, most: int) -> Iterator[np.ndarray[Any, Any]]:
    for i in spread(len(source), most):
        holder, place = stored_at(source, i)
        with globally_seeded(i):  # a data set's own transform may draw
            pixels = holder.deep_greys(place) if isinstance(holder, DecodesGreys) else None
        if pixels is not None and pixels.size:
            yield pixels
