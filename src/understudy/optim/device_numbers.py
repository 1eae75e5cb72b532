"""Numbers of Python where the device reads them anew at each use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["DeviceNumbers"]


class DeviceNumbers:
    """Named numbers as () tensors of one device, which stay where they are when their values change.

    What is computed of them can be replayed with other values: a captured CUDA graph keeps addresses, not numbers.

    Args:
        names: of all of them.
        device: where they are read.
        dtype: that they are rounded to.
    """

    def __init__(self, names: Sequence[str], *, device: torch.device, dtype: torch.dtype) -> None:
        self._values = torch.zeros(len(names), dtype=dtype, device=device)
        self.tensors: dict[str, Tensor] = dict(zip(names, self._values.unbind(), strict=True))

    def set(self, numbers: Mapping[str, float]) -> None:
        """Give them their values for the next use; nobody waits for the device.

        Raises:
            RuntimeError: a CUDA graph is being recorded, whose replays would read memory of these values that is gone.
        """
        has_graphs = self._values.is_cuda and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        if has_graphs and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("what a step is worked out by has changed while it was recorded")
        values = torch.tensor([numbers[name] for name in self.tensors], dtype=self._values.dtype)
        self._values.copy_(values, non_blocking=True)
