"""`--sweep KEY=V1,V2,...`: the rows of a comparison that vary a setting, several of them in every combination."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

from understudy.recipes.loading import parsed_yaml
from understudy.recipes.row_settings import check_can_vary, varied_name
from understudy.utils.errors import UserError

__all__ = ["MOST_ROWS", "sweep_rows"]

MOST_ROWS = 100  # of all sweeps together: each is a network to train


def sweep_rows(sweeps: Sequence[str]) -> list[dict[str, Any]]:
    """Rows as a recipe writes them, one for each value, or for each combination of several sweeps.

    Args:
        sweeps: such as "update.delta=-0.05,0,0.05"; a value with commas of its own is in brackets.

    Raises:
        UserError: a setting that rows share, a value that stands there twice, or too many rows.
    """
    keys = [sweep.partition("=")[0].strip() for sweep in sweeps]
    values = [_values(sweep) for sweep in sweeps]
    doubled = [key for key in keys if keys.count(key) > 1]
    if doubled:
        raise UserError(f"--sweep {doubled[0]}: is there twice; write all values of a setting in one")
    count = prod(len(each) for each in values)
    if count > MOST_ROWS:
        raise UserError(f"--sweep: these make {count:,} rows, at most {MOST_ROWS} are compared; leave out some values")
    rows: list[dict[str, Any]] = [dict(zip(keys, chosen, strict=True)) for chosen in product(*values)]
    return [{"name": varied_name(varied), "varied": varied} for varied in rows]


def _values(sweep: str) -> list[Any]:
    key, separator, text = sweep.partition("=")
    if not separator or not key.strip() or not text.strip():
        raise UserError(f"--sweep {sweep!r}: write KEY=V1,V2,..., such as update.delta=0.05,0.075")
    try:
        check_can_vary(key.strip())
    except ValueError as error:
        raise UserError(f"--sweep {error}") from None
    values: list[Any] = parsed_yaml(f"[{text}]", what=f"the values of --sweep {key}")
    if any(value is None for value in values) and "null" not in text:
        raise UserError(f"--sweep {sweep!r}: a value is missing between two commas")
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"--sweep {key}: {value!r} is there twice")
    return values
