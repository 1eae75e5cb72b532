"""What the types of results.json are made of: numbers that may be none, counts, sources."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from understudy.analysis import Summary
from understudy.core.config import Config
from understudy.core.published import Published, as_list

__all__ = ["LARGEST", "Count", "Difference", "Number", "NumberOrNone", "Record", "SeedSummary", "Sources"]

LARGEST = 1e100  # numbers beyond it are those of a run that diverged; sums and squares of them are NaN or infinite


class Record(Config):
    """A group of results: frozen; keys that a later version added are passed over, diverged numbers are kept."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=True, populate_by_name=True)


def _null_is_nan(value: Any) -> Any:
    return math.nan if value is None else value


def _null_mean_is_nan(value: Any) -> Any:
    return {**value, "mean": _null_is_nan(value["mean"])} if isinstance(value, Mapping) and "mean" in value else value


def _huge_is_nan(value: float) -> float:
    return value if abs(value) <= LARGEST else math.nan


def _huge_is_nan_or_none(value: float | None) -> float | None:
    return None if value is None else _huge_is_nan(value)


def _huge_are_nan(value: Summary) -> Summary:
    std = None if value.std is None else _huge_is_nan(value.std)
    return replace(value, mean=_huge_is_nan(value.mean), std=std)


def _numbers_alone(value: Any) -> Any:
    """Published sources as a list, without what a later version may say of them in words."""
    known = Published.model_fields
    listed = as_list(value)
    return [
        {"source": ""} | {key: entry for key, entry in one.items() if key in known or _is_number(entry)}
        if isinstance(one, Mapping)
        else one
        for one in (listed if isinstance(listed, list | tuple) else [listed])
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


# JSON has no NaN, so a diverged run's numbers may arrive as null.
Number = Annotated[float, BeforeValidator(_null_is_nan), AfterValidator(_huge_is_nan)]
NumberOrNone = Annotated[float | None, AfterValidator(_huge_is_nan_or_none)]  # None: it was not measured
Difference = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=0)]
SeedSummary = Annotated[Summary, BeforeValidator(_null_mean_is_nan), AfterValidator(_huge_are_nan)]
Sources = Annotated[tuple[Published, ...], BeforeValidator(_numbers_alone)]
