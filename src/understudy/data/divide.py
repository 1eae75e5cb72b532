"""Which rows train, which validate, and the words for it."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.data.config import DataConfig, parsed_rows
from understudy.data.sources.base import Source, rows_of
from understudy.data.sources.found import Found, SplitName
from understudy.utils.errors import UserError
from understudy.utils.hashing import hashed_tensor
from understudy.utils.text import plural

__all__ = ["divided", "held_out", "reduced"]


def divided(found: Found, config: DataConfig) -> tuple[dict[SplitName, Source], str]:
    """The parts by name ("train", "val" and, where there is one, "test"), and where val comes from.

    Raises:
        UserError: rows that are not there or shared, no test split where val: test wants it, or an empty part.
    """
    stored = found.splits["train"]
    shown = found.held_out or stored
    val_rows = _rows("val_rows", config.val_rows, len(stored))
    chosen = _rows("train_rows", config.train_rows, len(stored))
    if config.train_rows is None and config.val_rows is not None:
        chosen = chosen[~torch.isin(chosen, val_rows)]
    parts: dict[SplitName, Source] = dict(found.splits)
    if config.val == "test":
        if "test" not in parts:
            raise UserError(f"data.val: test, but {found.name} has no test split; leave data.val at auto")
        parts["val"], origin = parts["test"], "test split"
    elif config.val_rows is not None:
        if torch.isin(chosen, val_rows).any():
            raise UserError(f"data.train_rows {config.train_rows} and data.val_rows {config.val_rows} share rows")
        parts["val"], origin = rows_of(shown, val_rows), f"rows {config.val_rows} of train"
    elif "val" in parts:
        origin = found.val_words
    else:
        kept, held = held_out(stored.labels[chosen], config.val_fraction, config.split_seed)
        parts["val"], origin = rows_of(shown, chosen[held]), f"held out by seed {config.split_seed}"
        chosen = chosen[kept]
    parts["train"] = stored if len(chosen) == len(stored) else rows_of(stored, chosen)
    for name, source in parts.items():
        if len(source) == 0:
            raise UserError(
                f"the {name} split of {found.name} is empty ({origin}, {len(stored)} rows in train); "
                "set data.train_rows, data.val_rows or data.val_fraction otherwise"
            )
    return parts, origin


def reduced(train: Source, config: DataConfig) -> tuple[Source, str | None]:
    """The part of train that `per_class` or `fraction` leaves, and a note on it."""
    if config.per_class is not None:
        rows, words = _first_of_each(train.labels, config.per_class), f"the first {config.per_class} of each class"
        counts = torch.bincount(train.labels)
        if few := int(((counts > 0) & (counts < config.per_class)).sum()):
            words += f", or all where there are fewer ({plural(few, 'class', 'classes')})"
    elif config.fraction is not None:
        rows = _share(train.labels, config.fraction, config.split_seed, "fraction")
        words = f"{100 * config.fraction:g} % of each class, chosen by seed {config.split_seed}"
    else:
        return train, None
    return rows_of(train, rows), f"train is {words}: {len(rows):,} of {len(train):,} images"


def held_out(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """(kept, held out) row numbers, each ascending: the same share of every class, chosen by a hash of seed and row.

    Args:
        labels: (N,) int64.
        fraction: of the N rows to hold out, rounded to the nearest number.
        seed: another seed holds out others.
    """
    held = _share(labels, fraction, seed, "held out")
    is_kept = torch.ones(len(labels), dtype=torch.bool)
    is_kept[held] = False
    return is_kept.nonzero().flatten(), held


def _share(labels: Tensor, fraction: float, seed: int, purpose: str) -> Tensor:
    """Ascending row numbers of the same share of every class; a larger share of the same purpose holds a smaller."""
    keys = hashed_tensor(seed, purpose, torch.arange(len(labels)))
    position = torch.empty(len(labels), dtype=torch.float64)  # a row's place within its class, in (0,1)
    for label in torch.unique(labels):
        members = (labels == label).nonzero().flatten()
        ranks = keys[members].argsort().argsort()
        position[members] = (ranks.double() + 0.5) / len(members)
    # Places tie between classes of one size; the key decides, so that no class is favoured for its number.
    by_key = keys.argsort()
    order = by_key[position[by_key].argsort(stable=True)]
    return order[: round(len(labels) * fraction)].sort().values


def _first_of_each(labels: Tensor, count: int) -> Tensor:
    """Ascending row numbers of the first `count` of every class."""
    by_class = labels.argsort(stable=True)
    sizes = torch.bincount(labels)
    first = (sizes.cumsum(0) - sizes)[labels[by_class]]
    place = torch.arange(len(labels)) - first  # within its class
    return by_class[place < count].sort().values


def _rows(key: str, text: str | None, num_rows: int) -> Tensor:
    """The row numbers that a setting means; all of them for None."""
    start, stop = parsed_rows(text or ":")
    if start >= max(num_rows, 1) or (stop or 0) > num_rows:
        raise UserError(f"data.{key}: {text} goes beyond the training split, which has rows 0:{num_rows}")
    return torch.arange(start, num_rows if stop is None else stop)
