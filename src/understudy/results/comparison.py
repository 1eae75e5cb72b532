"""Two rows held against each other, as results.json keeps it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from understudy.results.values import Count, Difference, Record

__all__ = ["Apart", "Comparison", "Split"]

Split = Literal["val", "test"]


class Apart(Record):
    """Difference of two rows by one metric, with its 95 % interval."""

    difference: Difference  # of `row` minus `against`, in the metric's unit
    low: Difference  # lower end of the interval
    high: Difference  # upper end


class Comparison(Record):
    """Difference of two rows by the headline metric at the selected epoch, with its 95 % interval."""

    row: str  # the one
    against: str  # the other
    split: Split  # `val` or `test`
    difference: Difference  # of `row` minus `against`, in the metric's unit: percentage points where that is %
    low: Difference  # lower end of the interval
    high: Difference  # upper end
    num_images: Count  # that it was drawn from
    num_seeds: Count  # likewise
    beside: dict[str, Apart] = Field(default_factory=dict)  # likewise by other metrics, such as `ap50` beside `ap`

    @property
    def spans_zero(self) -> bool:
        """True where these images and seeds cannot tell the two rows apart."""
        return self.low <= 0 <= self.high
