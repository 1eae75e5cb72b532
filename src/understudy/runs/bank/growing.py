"""A bank to which a teacher's looks are added, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from understudy.core.batch import Batch
from understudy.core.precision import autocast
from understudy.data import TrainLoader
from understudy.runs.components import Components
from understudy.teachers.bank.maps_alone import CANVAS
from understudy.teachers.bank.packing import BankLayout, joined_rows, packed
from understudy.teachers.bank.store import BankFolder, Manifest, name_of

__all__ = ["GrowingBank", "batches_at"]


@dataclass
class GrowingBank:
    """The bank of one teacher and seed, of which some shards are there."""

    components: Components  # with this teacher alone
    folder: BankFolder
    manifest: Manifest
    _kept: list[dict[str, Tensor]] = field(default_factory=list)  # rows of a shard that is not whole yet

    def steps_missing(self, view: int) -> set[int]:
        """Batches of a view whose rows are not there."""
        missing = [number for place, number in self.manifest.missing if place == view]
        return {step for number in missing for step in self.manifest.layout.steps_of(number)}

    def look(self, view: int, step: int, batch: Batch) -> None:
        """Keep what the teacher says of the batch, unless that is there."""
        number = step // self.manifest.layout.steps_per_shard
        if view < self.manifest.num_views and name_of(view, number) not in self.manifest.shards:
            self._kept.append(_teacher_rows(self.components, batch, self.manifest.layout))

    def write_ended(self, view: int, step: int) -> None:
        """Write the shard that this batch ends, if it is new."""
        layout = self.manifest.layout
        shard = step // layout.steps_per_shard
        if self._kept and step == layout.steps_of(shard)[-1]:
            self.manifest = self.folder.write_shard(self.manifest, view, shard, joined_rows(self._kept))
            self._kept = []


def batches_at(loader: TrainLoader, view: int, steps: Sequence[int]) -> Iterator[tuple[int, Batch]]:
    """These batches of a view by their number; one pass goes on as long as they follow each other."""
    rest = list(steps)
    while rest:
        start = rest[0]
        run = [step for place, step in enumerate(rest) if step == start + place]
        yield from zip(run, loader.epoch(view + 1, start), strict=False)
        rest = rest[len(run) :]


def _teacher_rows(components: Components, batch: Batch, layout: BankLayout) -> dict[str, Tensor]:
    """The rows of one batch, in its own order, with the numbers by which they are found."""
    assert batch.indices is not None
    with autocast(components.recipe.precision, components.device):
        observation = components.shown_teacher.observe(batch.to(components.device))
    draws = torch.zeros_like(batch.indices) if batch.draws is None else batch.draws
    found = {"indices": batch.indices.to("cpu", torch.int32), "copies": draws.to("cpu", torch.uint8)}
    if layout.canvas is not None:
        canvas = torch.tensor(batch.images.shape[2:], dtype=torch.int32)
        found[CANVAS] = canvas.expand(len(batch.indices), 2).contiguous()
    return {**found, **packed(observation.output, observation.features, layout)}
