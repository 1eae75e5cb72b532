"""The loss of a step: every method's terms, each with its weight, over the rows that it is defined on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.core.batch import IMAGES, MAIN, Losses, Pairing
from understudy.distributed.world import SINGLE, RankCounts, World
from understudy.methods.base import Method, MethodConfig
from understudy.utils.errors import UserError
from understudy.utils.seeding import RandomState

__all__ = [
    "PassShare",
    "WeightedMethod",
    "combine_losses",
    "is_on_local_rows",
    "labels_of",
    "pairing_of",
]


@dataclass(frozen=True, slots=True)
class WeightedMethod:
    """A method, which of a task's Pairings it reads, and how its terms enter the distillation loss."""

    method: Method
    weight: float
    warmup_epochs: int = 0
    reads: str = MAIN

    def weight_in(self, epoch: int) -> float:
        """Weight in an epoch counted from 1, constant within it, as the field does it."""
        return self.weight * (min(epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0)

    def baked_in(self, epoch: int, num_epochs: int) -> Hashable:
        """What a recorded step has of the epoch: the weight, and where the method follows it, which of how many."""
        return self.weight_in(epoch), (epoch, num_epochs) if self.method.follows_epochs() else None


@dataclass(frozen=True, slots=True)
class PassShare:
    """What one pass on one process is of a whole step: its losses count by their share of the step's rows.

    Args:
        rows: of this pass, over the processes.
        task: share of the labelled predictions.
        independent: share of all rows, for methods that take each row for itself.
        related: share of a loss that every process computes on the gathered rows of the pass.
        world: the processes.
    """

    rows: RankCounts
    task: float | Tensor = 1.0
    independent: float = 1.0
    related: float = 1.0
    world: World = SINGLE


def combine_losses(
    task_loss: Tensor,
    pairings: Pairing | Mapping[str, Pairing],
    methods: Sequence[WeightedMethod],
    *,
    task_weight: float,
    epoch: int,
    part: PassShare,
    random_state: RandomState,
    apart: bool = False,
) -> tuple[Losses, Losses]:
    """(losses to descend on, losses to log): the former carry this part's share of the step, the latter are whole.

    `random_state` is swapped in where related rows are compared: each process does that on all rows, so all must draw
    the same, or CRD's constants and with them the connectors drift apart. A lone Pairing is read by every method.
    `apart`: the former also have the parts of the distillation loss that the methods tell apart.
    """
    shared: Tensor | None = None
    whole: Tensor | None = None
    logged: dict[str, Tensor] = {}
    parts: dict[str, Tensor] = {}
    gathered: dict[int, Pairing] = {}  # by the Pairing of this process; in classification all names mean one
    labelled: dict[int, Pairing] = {}  # likewise, the rows that have a label
    for label, weighted in zip(_labels_in_log(methods), methods, strict=True):
        method, pairing = weighted.method, pairing_of(pairings, weighted.reads)
        if pairing.has_ignored and "hard_labels" in method.needs_for(method.config):
            pairing = labelled.setdefault(id(pairing), pairing.labelled())
        if is_on_local_rows(method.config):
            terms, share = _local_terms(method, pairing), part.independent
        else:
            if id(pairing) not in gathered:
                gathered[id(pairing)] = part.world.gather(pairing, part.rows)
            with random_state.swapped_in():
                terms, share = method(gathered[id(pairing)]), part.related
        weight = weighted.weight_in(epoch)
        loss = weight * torch.stack(list(terms.values())).sum()
        whole = loss if whole is None else whole + loss
        shared = _times(loss, share) if shared is None else shared + _times(loss, share)
        for name, value in terms.items():
            if apart:
                mine, stream = _times(weight * value, share), _stream_of(method, name)
                parts[stream] = parts[stream] + mine if stream in parts else mine
            logged[label if name == method.name else f"{label}.{name}"] = value.detach()
    terms = {"task_loss": task_loss.detach(), **logged}
    to_log = Losses(task_weight * task_loss.detach(), whole, terms)
    return Losses(_times(task_weight * task_loss, part.task), shared, terms, parts), to_log


def _stream_of(method: Method, term: str) -> str:
    if term not in method.streams:
        raise UserError(
            f"method {method.name!r} gives a term {term!r} and does not say which part of the loss it is; name it in "
            f"streams, which has {', '.join(method.streams) or 'none'}"
        )
    return method.streams[term]


def pairing_of(pairings: Pairing | Mapping[str, Pairing], name: str) -> Pairing:
    """The Pairing that is meant: features lie in "images", or where a task has none beside its predictions, in those.

    Raises:
        UserError: the task has no such Pairing; the text lists them.
    """
    if isinstance(pairings, Pairing):
        return pairings
    if name == IMAGES and name not in pairings:
        name = MAIN
    if name not in pairings:
        raise UserError(f"method.on: these networks and this task have no {name!r}; there are {', '.join(pairings)}")
    return pairings[name]


def is_on_local_rows(config: MethodConfig) -> bool:
    """Whether a method sees the rows of one process, and not those of all together."""
    return config.method.rows == "independent" or config.rows == "local"


def labels_of(methods: Sequence[Method]) -> list[str]:
    """The methods' names, the second of one name as "kd#2"."""
    return _told_apart([method.name for method in methods])


def _labels_in_log(methods: Sequence[WeightedMethod]) -> list[str]:
    """Likewise, with the Pairing where one was named that is not the main one: "dist.aux"."""
    return _told_apart(
        [
            one.method.name if one.method.config.on is None or one.reads == MAIN else f"{one.method.name}.{one.reads}"
            for one in methods
        ]
    )


def _told_apart(names: Sequence[str]) -> list[str]:
    return [
        name if names[:place].count(name) == 0 else f"{name}#{names[:place].count(name) + 1}"
        for place, name in enumerate(names)
    ]


def _local_terms(method: Method, pairing: Pairing) -> dict[str, Tensor]:
    """Terms on this process's rows; of related rows in groups of `group_size`, as on so many devices."""
    size = method.config.group_size
    if method.rows == "independent" or size is None:
        terms: dict[str, Tensor] = method(pairing)
        return terms
    num_rows = len(pairing.student_logits)
    starts = list(range(0, num_rows, size))
    if len(starts) > 1 and num_rows - starts[-1] < method.min_rows(method.config):
        starts.pop()  # too few for a group of their own: they join the one before
    ends = [*starts[1:], num_rows]
    totals: dict[str, Tensor] = {}
    for start, end in zip(starts, ends, strict=True):
        for name, value in method(pairing.select(slice(start, end))).items():
            mean = value * ((end - start) / num_rows)
            totals[name] = totals[name] + mean if name in totals else mean
    return totals


def _times(loss: Tensor, share: float | Tensor) -> Tensor:
    if isinstance(share, float):
        return loss if share == 1.0 else loss * share
    return loss * share.to(loss.dtype)
