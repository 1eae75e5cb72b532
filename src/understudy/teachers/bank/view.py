"""One view of a bank: rows by sample and copy, on the disk until they are asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from understudy.teachers.bank.maps_alone import CANVAS
from understudy.teachers.bank.packing import BankLayout, joined_rows, named_alike
from understudy.utils.errors import UserError

__all__ = ["BankView"]

RESIDENT_BYTES = 2**30  # up to so many a view lies whole on an accelerator, where a step then waits for nothing


class BankView:
    """All rows of one view.

    Args:
        shards: as they were written, mapped to their files.
        layout: of the bank.
        name: what messages call the bank.
        device: that the rows are wanted on.

    Raises:
        UserError: a shard holds something else than the layout says.
    """

    def __init__(
        self, shards: Sequence[dict[str, Tensor]], layout: BankLayout, *, name: str, device: torch.device
    ) -> None:
        self._name = name
        self._places = torch.full((layout.num_samples, layout.num_draws), -1)  # (N,K) row of each image
        start = 0
        for shard in shards:
            indices, draws = _checked(shard, layout, name)
            self._places[indices, draws] = torch.arange(start, start + len(indices))
            start += len(indices)
        self._are_alike = layout.canvas != "batch"
        if self._are_alike:
            try:
                shards = named_alike(shards)  # one may have been made again in the other memory format
            except LookupError:
                raise _not_ours(name) from None
        is_whole = int((self._places >= 0).sum()) == layout.view_rows
        if device.type != "cpu" and self._are_alike and is_whole and layout.view_bytes <= RESIDENT_BYTES:
            self._places = self._places.to(device)
            # Nothing is read back from a device: a repeat that is not there (at -1) is no number, which stops the run.
            shards = [*shards, _no_number(shards[0])]
            shards = [{part: rows.to(device) for part, rows in joined_rows(shards).items()}]
        self._shards = shards
        counts = torch.tensor([len(shard["indices"]) for shard in shards])
        self._ends = counts.cumsum(0)
        self._starts = self._ends - counts

    def select(self, indices: Tensor, draws: Tensor | None, names: Iterable[str]) -> dict[str, Tensor]:
        """Rows (B,...) by name, of these samples (B,) and their draws (B,); names that the bank lacks are left out.

        Raises:
            UserError: one was never banked, or their maps are of several sizes.
        """
        home = self._places.device
        rows = self._places[indices.to(home), 0 if draws is None else draws.to(home)]
        if home.type != "cpu":  # all rows are there, in one piece
            return {name: self._shards[0][name][rows] for name in set(names) & set(self._shards[0])}
        if (rows < 0).any():
            sample = int(indices.to(home)[rows < 0][0])
            raise UserError(
                f"{self._name} lacks image {sample} of the training set: it could not be read when the bank was made; "
                "make the bank anew"
            )
        numbers = torch.searchsorted(self._ends, rows, right=True)
        rows = rows - self._starts[numbers]
        wanted = [(number, (numbers == number).nonzero().flatten()) for number in sorted(set(numbers.tolist()))]
        parts = self._alike([self._shards[number] for number, _ in wanted])
        found = {}
        for name in set(names) & set(parts[0]):
            like = parts[0][name]
            found[name] = like.new_empty((len(rows), *like.shape[1:]))
            for (_, here), part in zip(wanted, parts, strict=True):
                found[name][here] = part[name][rows[here]]
        return found

    def _alike(self, parts: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Shards whose rows go together: those of one batch, where others may have maps of other sizes."""
        if self._are_alike:
            return parts
        try:
            parts = named_alike(parts)
            are_alike = all(len({part[name].shape[1:] for part in parts}) == 1 for name in parts[0])
        except LookupError:
            are_alike = False
        if not are_alike:
            raise UserError(
                f"{self._name} has maps of several sizes of these images, which were not in one batch when the bank "
                "was made; give the batches of the recipe that it was made of"
            )
        return parts


def _checked(shard: dict[str, Tensor], layout: BankLayout, name: str) -> tuple[Tensor, Tensor]:
    """Samples of a shard's rows and which draws of them these are, as far as they can be those of this bank."""
    if not {"indices", "copies", *layout.output.names} <= set(shard) or len({len(part) for part in shard.values()}) > 1:
        raise _not_ours(name)
    indices, draws = shard["indices"].long(), shard["copies"].long()
    if layout.canvas is not None and shard[CANVAS].shape != (len(indices), 2):
        raise _not_ours(name)
    if len(indices) and (
        indices.min() < 0 or indices.max() >= layout.num_samples or draws.min() < 0 or draws.max() >= layout.num_draws
    ):
        raise UserError(f"{name} holds rows of images beyond the {layout.num_samples:,} it is of; make the bank anew")
    return indices, draws


def _no_number(shard: dict[str, Tensor]) -> dict[str, Tensor]:
    """A row like those of the shard, of NaN where it can be."""
    return {
        part: torch.full_like(rows[:1], math.nan if rows.is_floating_point() else 0) for part, rows in shard.items()
    }


def _not_ours(name: str) -> UserError:
    return UserError(f"{name} holds a shard that no bank has written; make the bank anew")
