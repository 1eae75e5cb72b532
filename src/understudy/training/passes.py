"""The passes of a step: its batch in as many parts as memory asks for, and what each part counts for."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from understudy.core.batch import Batch, Observation
from understudy.core.precision import widest_dtype
from understudy.distributed.world import RankCounts, World
from understudy.tasks.base import Task
from understudy.training.loss import PassShare

__all__ = ["passes_of"]


def passes_of(
    batch: Batch, observation: Observation, rows: RankCounts, *, accumulate: int, task: Task, world: World
) -> Iterator[tuple[Batch, Observation, PassShare]]:
    """The passes of a step, with what each counts for.

    Args:
        batch: of the step, this process's part.
        observation: of that batch.
        rows: of the batch, over all processes.
        accumulate: passes a step.
        task: tells which predictions are labelled.
        world: the processes.
    """
    num_passes = min(accumulate, *rows.counts)
    if num_passes == 1 and world.size == 1:
        yield batch, observation, PassShare(rows)
        return
    counted = task.num_labelled(batch)
    labelled = world.add_up([counted.to(d := widest_dtype(counted.device))])[0].clamp_min(torch.finfo(d).tiny)
    total = sum(rows.counts)
    for place in range(num_passes):
        bounds = [(place * count // num_passes, (place + 1) * count // num_passes) for count in rows.counts]
        here = slice(*bounds[rows.rank]) if num_passes > 1 else slice(None)
        part_rows = RankCounts(tuple(end - start for start, end in bounds), rows.rank)
        part_batch = batch.select(here)
        part = PassShare(
            part_rows,
            task=task.num_labelled(part_batch) / labelled,
            independent=part_rows.mine / total,
            related=sum(part_rows.counts) / total / world.size,
            world=world,
        )
        yield part_batch, observation.select(here), part
