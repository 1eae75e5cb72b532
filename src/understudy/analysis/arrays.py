"""Tensors and arrays alike become numpy arrays at the border of the analysis."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["ArrayLike", "as_array"]

ArrayLike = npt.NDArray[Any] | Tensor


def as_array(values: ArrayLike) -> npt.NDArray[Any]:
    """The same numbers as a numpy array on the host; tensors of any device are read once."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
