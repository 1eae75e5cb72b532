"""Running weighted means of named scalars, kept on the device and read once per interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Meter"]


class Meter:
    """Means over all `add` calls since the last `read`. Adding never waits for the device."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sum: Tensor | None = None  # (len(names),) float64
        self._weight = 0
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

    def read(self) -> dict[str, float]:
        """The means by name; the meter starts anew."""
        if self._sum is None:
            return {}
        means = dict(zip(self._names, (self._sum / self._weight).tolist(), strict=True))
        self.__init__()  # type: ignore[misc]
        return means

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {"names": list(self._names), "sum": self._sum, "weight": self._weight, "num_adds": self.num_adds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._names, self._sum = tuple(state["names"]), state["sum"]
        self._weight, self.num_adds = state["weight"], state["num_adds"]
