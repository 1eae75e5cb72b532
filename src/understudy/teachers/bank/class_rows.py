"""A classifier's output in a bank: one row of logits an image. The only place that knows this shape.

An output of another shape, such as rows of several predictions an image or maps (B,C,H,W), is another class with the
members of this one, which `BankLayout.output` then gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.teachers.bank.stored import DTYPES, StoredType, narrowed

__all__ = ["ClassRows", "restored_logits"]


@dataclass(frozen=True, slots=True)
class ClassRows:
    """Logits (B,C_t) of B images, all of them or each row's largest k with what the others weigh."""

    num_classes: int  # C_t, the teacher's
    dtype: StoredType
    topk: int | None = None  # k; None: all
    centred: bool = False  # float16 logits are differences from an offset of their row, in float32

    @property
    def names(self) -> tuple[str, ...]:
        """What the tensors of some images are called on the disk."""
        offset = ("offset",) if self.centred else ()
        return ("logits", *offset) if self.topk is None else ("logits", *offset, "classes", "rest")

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        width = DTYPES[self.dtype].itemsize
        kept = self.num_classes * width
        if self.topk is not None:
            kept = self.topk * (width + _class_type(self.num_classes).itemsize) + torch.float32.itemsize
        return kept + torch.float32.itemsize * self.centred

    def in_words(self) -> str:
        """'10 logits', 'top 3 of 10 logits'."""
        return f"{self.num_classes} logits" if self.topk is None else f"top {self.topk} of {self.num_classes} logits"

    def packed(self, logits: Tensor) -> dict[str, Tensor]:
        """What the disk keeps of them.

        Args:
            logits: (B,C_t) of any float type.

        Returns:
            On the CPU: "logits" (B,C_t), or of the largest k "logits" and "classes" (B,k) and of the others "rest"
            (B,), the logarithm of the sum of their exponentials; and "offset" (B,) where they are centred.

        Raises:
            UserError: a value is NaN or infinite, or too large for float16.
        """
        logits = logits.detach().float()
        if self.topk is None:
            return self._narrowed(logits)
        values, classes = logits.topk(self.topk, dim=1)
        others = logits.scatter(1, classes, -math.inf)
        return {
            **self._narrowed(values),
            "classes": classes.to(_class_type(self.num_classes)).cpu(),
            "rest": narrowed(others.logsumexp(dim=1), "float32", "logits"),
        }

    def unpacked(self, kept: Mapping[str, Tensor]) -> Tensor:
        """(B,C_t) float32, from what `packed` made of them."""
        logits = kept["logits"].float()
        if "offset" in kept:
            logits = logits + kept["offset"][:, None]
        if self.topk is None:
            return logits
        return restored_logits(logits, kept["classes"], kept["rest"], num_classes=self.num_classes)

    def _narrowed(self, logits: Tensor) -> dict[str, Tensor]:
        """(B,K) logits as they are stored; centred ones without what all logits of a row have in common.

        float16 has eleven binary digits: of logits around 1,000 it keeps halves, and a teacher's opinion lies in
        tenths.
        """
        if not self.centred or not logits.isfinite().all():
            return {"logits": narrowed(logits, self.dtype, "logits")}
        lowest, highest = logits.aminmax(dim=1)
        # The value between them that is nearest to 0: rows with logits of both signs are stored as they are.
        offset = lowest.clamp(min=0) + highest.clamp(max=0)
        return {"logits": narrowed(logits - offset[:, None], self.dtype, "logits"), "offset": offset.cpu()}


def restored_logits(values: Tensor, classes: Tensor, rest: Tensor, *, num_classes: int) -> Tensor:
    """Logits of all classes, the mass of those that were not kept spread evenly over them.

    At temperature 1 the probabilities of the kept classes are exact, but for rounding; at others the sum over the
    rest is not, since it lacks how the rest was distributed.

    Args:
        values: (B,k) kept logits.
        classes: (B,k) whose they are.
        rest: (B,) logarithm of the sum of the other classes' exponentials.
        num_classes: C_t > k.

    Returns:
        (B,C_t) float32.
    """
    each = rest.float() - math.log(num_classes - values.shape[1])
    spread = each[:, None].repeat(1, num_classes)
    return spread.scatter_(1, classes.long(), values.float())


def _class_type(num_classes: int) -> torch.dtype:
    return torch.int16 if num_classes <= torch.iinfo(torch.int16).max else torch.int32
