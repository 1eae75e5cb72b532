"""Named scalars over many steps: kept on the device, read once per interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["BadValue", "Meter", "StepLog"]

AddUp = Callable[[Sequence[Tensor]], list[Tensor]]  # sums over processes


class Meter:
    """Means over all `add` calls since the last `read`. Adding never waits for the device."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sum: Tensor | None = None  # (len(names),) float64
        self._weight = 0.0
        self.num_adds = 0

    def add(self, values: Mapping[str, Tensor], weight: int) -> None:
        """Add scalars that are each a mean over `weight` rows."""
        row = torch.stack([value.double() for value in values.values()]) * weight
        if self._sum is None:
            self._names, self._sum = tuple(values), row
        else:
            assert self._names == tuple(values), f"{tuple(values)} after {self._names}"
            self._sum = self._sum.to(row.device) + row
        self._weight += weight
        self.num_adds += 1

    def add_sums(self, sums: Mapping[str, float], weight: float, num_adds: int) -> None:
        """Add what is summed already: values times weight, by name."""
        if self._sum is None:
            self._names, self._sum = tuple(sums), torch.zeros(len(sums), dtype=torch.float64)
        assert self._names == tuple(sums), f"{tuple(sums)} after {self._names}"
        self._sum = self._sum + torch.tensor(list(sums.values()), dtype=torch.float64)
        self._weight += weight
        self.num_adds += num_adds

    def read(self, add_up: AddUp = list) -> dict[str, float]:
        """The means by name, over all processes that `add_up` sums over; the meter starts anew."""
        if self._sum is None:
            return {}
        *sums, weight = add_up([torch.cat([self._sum, self._sum.new_tensor([self._weight])])])[0].tolist()
        names = self._names
        self.__init__()  # type: ignore[misc]
        return {name: total / weight for name, total in zip(names, sums, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {"names": list(self._names), "sum": self._sum, "weight": self._weight, "num_adds": self.num_adds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._names, self._sum = tuple(state["names"]), state["sum"]
        self._weight, self.num_adds = state["weight"], state["num_adds"]


class BadValue(ArithmeticError):  # noqa: N818 - it is what was met
    """A value that is no number was met: in which of the steps since the log began (0-based), and of what."""

    def __init__(self, place: int, name: str, value: float) -> None:
        super().__init__(f"{name} is {value}")
        self.place, self.name, self.value = place, name, value


class StepLog:
    """The scalars of every step since the log was last closed, one row each. Adding never waits for the device."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._rows: list[Tensor] = []  # (len(names) + 1,) float64: values times weight, and the weight

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, values: Mapping[str, Tensor], weight: int) -> None:
        """Add a step's scalars, each a mean over `weight` rows."""
        assert self._names in ((), tuple(values)), f"{tuple(values)} after {self._names}"
        self._names = tuple(values)
        scalars = [value.detach().double() for value in values.values()]
        self._rows.append(torch.stack([*scalars, torch.ones_like(scalars[0])]) * weight)

    def totals(self, add_up: AddUp = list, *, refuses_nan: bool = True) -> tuple[dict[str, float], float]:
        """Sums of value times weight by name, and of the weights, over all steps and processes; waits for the device.

        Args:
            add_up: sums tensors over the processes of the run.
            refuses_nan: whether to look for values that are no numbers.

        Raises:
            BadValue: the first value that is NaN or infinite.
        """
        if not self._rows:
            return {}, 0.0
        table = self._table(add_up)
        bad = (~table.isfinite()).nonzero()
        if refuses_nan and len(bad):
            place, column = bad[0].tolist()
            raise BadValue(place, self._names[column], table[place, column].item())
        *sums, weight = table.sum(0).tolist()
        return dict(zip(self._names, sums, strict=True)), weight

    def clear(self) -> None:
        """Start a new interval."""
        self.__init__()  # type: ignore[misc]

    def state_dict(self, add_up: AddUp = list) -> dict[str, Any]:
        """Everything that a resumed run needs, of all processes together."""
        return {"names": list(self._names), "table": self._table(add_up) if self._rows else None}

    def load_state_dict(self, state: Mapping[str, Any], *, is_first: bool = True) -> None:
        """Put back what `state_dict` gave; of several processes the first one holds it all."""
        self._names = tuple(state["names"])
        table = state["table"]
        self._rows = [] if table is None else list(table if is_first else torch.zeros_like(table))

    def _table(self, add_up: AddUp) -> Tensor:
        """(steps, names + 1) on the CPU."""
        device = self._rows[-1].device
        return add_up([torch.stack([row.to(device) for row in self._rows])])[0].cpu()
