"""Named scalars over many steps: kept on the device, read once per interval."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from understudy.core.precision import widest_dtype

__all__ = ["BadValue", "Means", "Meter", "StepLog", "StepRecord"]

AddUp = Callable[[Sequence[Tensor]], list[Tensor]]  # sums over processes


class Meter:
    """Means over all `add` calls since the last `read`. Adding never waits for the device."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self._names: tuple[str, ...] = ()
        self._sum: Tensor | None = None  # (len(names),) float64
        self._weight = 0.0

    def add(self, values: Mapping[str, Tensor], weight: int) -> None:
        """Add scalars that are each a mean over `weight` rows."""
        row = torch.stack([value.to(widest_dtype(value.device)) for value in values.values()]) * weight
        if self._sum is None:
            self._names, self._sum = tuple(values), row
        else:
            assert self._names == tuple(values), f"{tuple(values)} after {self._names}"
            self._sum = self._sum.to(row.device) + row
        self._weight += weight

    def read(self, add_up: AddUp = list) -> dict[str, float]:
        """The means by name, over all processes that `add_up` sums over; the meter starts anew."""
        if self._sum is None:
            return {}
        *sums, weight = add_up([torch.cat([self._sum, self._sum.new_tensor([self._weight])])])[0].tolist()
        names = self._names
        self.reset()
        return {name: total / weight for name, total in zip(names, sums, strict=True)}


class Means:
    """Means of plain numbers since the last `read`, each with a weight of its own."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew."""
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, sums: Mapping[str, float], weights: Mapping[str, float]) -> None:
        """Add sums of value times weight, and of the weights, by name."""
        for name, total in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + total
            self._weights[name] = self._weights.get(name, 0.0) + weights[name]

    def read(self) -> dict[str, float]:
        """The means of what has any weight; everything starts anew."""
        means = {name: total / self._weights[name] for name, total in self._sums.items() if self._weights[name]}
        self.reset()
        return means

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {"sums": dict(self._sums), "weights": dict(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._sums, self._weights = dict(state["sums"]), dict(state["weights"])


class BadValue(ArithmeticError):  # noqa: N818 - it is what was met
    """A value that is NaN or infinite was met: in which of the steps since the log began (0-based), and of what."""

    def __init__(self, place: int, name: str, value: float) -> None:
        super().__init__(f"{name} is {value}")
        self.place, self.name, self.value = place, name, value


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one pass, or several added up, is worth in the log: sums of scalars, and over how many rows each is a sum.

    Attributes:
        sums: () float64 by name, on the device.
        weights: () float64 likewise.
    """

    sums: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]

    @classmethod
    def of_means(
        cls,
        values: Mapping[str, Tensor],
        *,
        num_rows: int,
        num_labelled: Tensor,
        of_labelled: Collection[str] = (),
        others: Mapping[str, Tensor] | None = None,
    ) -> StepRecord:
        """The record of scalars that are means over rows.

        Args:
            values: () by name.
            num_rows: of which they are means.
            num_labelled: () how many of the rows carry a label.
            of_labelled: names of scalars that are means over these alone.
            others: () by name of scalar, what it is a mean of instead, as a loss over pixels beside coarser rows.
        """
        scalars = {name: value.detach().to(widest_dtype(value.device)) for name, value in values.items()}
        rows = next(iter(scalars.values())).new_full((), num_rows)
        labelled = num_labelled.to(rows)
        weights = {name: labelled if name in of_labelled else rows for name in scalars}
        weights |= {name: count.to(rows) for name, count in (others or {}).items() if name in weights}
        return cls({name: value * weights[name] for name, value in scalars.items()}, weights)

    def __add__(self, other: StepRecord) -> StepRecord:
        """Both passes together."""

        def added(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value + theirs[name] for name, value in ours.items()}

        return StepRecord(added(self.sums, other.sums), added(self.weights, other.weights))

    def mean(self, name: str) -> Tensor:
        """() the mean of a scalar over its rows; NaN where there is none."""
        return self.sums[name] / self.weights[name]


class StepLog:
    """The scalars of every step since the log was last closed, one row each. Adding never waits for the device."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start a new interval."""
        self._names: tuple[str, ...] = ()
        self._rows: list[Tensor] = []  # (2 * len(names),) float64: values times weights, and the weights

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, record: StepRecord) -> None:
        """Add a step."""
        names = tuple(record.sums)
        assert self._names in ((), names), f"{names} after {self._names}"
        self._names = names
        self._rows.append(torch.stack([*record.sums.values(), *(record.weights[name] for name in names)]))

    def totals(self, add_up: AddUp = list, *, refuses_nan: bool = True) -> tuple[dict[str, float], dict[str, float]]:
        """Sums of value times weight, and of the weights, by name, over all steps and processes; waits for the device.

        Args:
            add_up: sums tensors over the processes of the run.
            refuses_nan: whether to look for values that are NaN or infinite.

        Raises:
            BadValue: the first value that is NaN or infinite.
        """
        if not self._rows:
            return {}, {}
        table = self._table(add_up)
        bad = (~table.isfinite()).nonzero()
        if refuses_nan and len(bad):
            place, column = bad[0].tolist()
            raise BadValue(place, self._names[column], table[place, column].item())
        sums, weights = table.sum(0).view(2, -1).tolist()
        return dict(zip(self._names, sums, strict=True)), dict(zip(self._names, weights, strict=True))

    def state_dict(self, add_up: AddUp = list) -> dict[str, Any]:
        """Everything that a resumed run needs, of all processes together."""
        return {"names": list(self._names), "table": self._table(add_up) if self._rows else None}

    def load_state_dict(self, state: Mapping[str, Any], *, is_first: bool = True) -> None:
        """Put back what `state_dict` gave; of several processes the first one holds it all."""
        self._names = tuple(state["names"])
        table = state["table"]
        self._rows = [] if table is None else list(table if is_first else torch.zeros_like(table))

    def _table(self, add_up: AddUp) -> Tensor:
        """(steps, 2 * names) on the CPU."""
        device = self._rows[-1].device
        return add_up([torch.stack([row.to(device) for row in self._rows])])[0].cpu()
