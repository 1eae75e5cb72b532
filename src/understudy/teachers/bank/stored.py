"""Values as a bank stores them: narrowed to its type, on the CPU, and never a wrong number in silence."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from understudy.utils.errors import UserError

__all__ = ["DTYPES", "StoredType", "narrowed"]

StoredType = Literal["float16", "float32"]

DTYPES: dict[StoredType, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}


def narrowed(values: Tensor, dtype: StoredType, what: str) -> Tensor:
    """The values in the type that is stored, on the CPU.

    Args:
        values: of any float type and shape.
        dtype: that is stored.
        what: they are, for messages.

    Raises:
        UserError: a value is NaN or infinite, or too large for float16.
    """
    narrow = values.to(DTYPES[dtype])
    if not narrow.isfinite().all():
        if not values.isfinite().all():
            raise UserError(f"the teacher's {what} are NaN or infinite for some image; are its weights whole?")
        raise UserError(
            f"the teacher's {what} reach {values.abs().max():.4g}, and float16 ends at 65,504; store this bank with "
            "--dtype float32"
        )
    return narrow.cpu()
