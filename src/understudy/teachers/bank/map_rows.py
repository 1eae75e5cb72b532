"""A segmenter's outputs in a bank: maps of logits at the network's own stride, a class vector at every position.

What is kept of one is kept for each: all logits in the stored type, or of every position the largest k with what the
others weigh.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.core.outputs import named_outputs
from understudy.teachers.bank.stored import DTYPES, StoredType, narrowed
from understudy.utils.errors import UserError

__all__ = ["MapRows"]

MapSize = tuple[int, int, int]  # (C,h,w)


@dataclass(frozen=True, slots=True)
class MapRows:
    """Maps of logits (B,C,h,w) of B images by the names of the outputs: "logits", and "aux" beside it."""

    maps: Mapping[str, MapSize]
    dtype: StoredType
    topk: int | None = None  # k of every position; None: all C

    @property
    def names(self) -> tuple[str, ...]:
        """What the tensors of some images are called on the disk."""
        parts = ("",) if self.topk is None else ("", ".classes", ".rest")
        return tuple(f"maps.{name}{part}" for name in self.maps for part in parts)

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return sum(height * width * self._place_bytes(classes) for classes, height, width in self.maps.values())

    def in_words(self) -> str:
        """'logits 19x64x128', 'the top 4 of logits 19x64x128'."""
        kept = ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in self.maps.items())
        return kept if self.topk is None else f"the top {self.topk} of {kept}"

    def packed(self, output: object) -> dict[str, Tensor]:
        """What the disk keeps of them.

        Args:
            output: a tensor (B,C,h,w), or tensors by name; of any float type.

        Returns:
            On the CPU, by "maps.NAME": (B,h,w,C), the classes last as a channels_last network gives them; or of the
            largest k "maps.NAME" and "maps.NAME.classes" (B,h,w,k) and "maps.NAME.rest" (B,h,w), the logarithm of the
            sum of the other classes' exponentials.

        Raises:
            UserError: an output lacks a map or has it in another size, or a value is NaN, infinite or too large.
        """
        found = named_outputs(output)
        kept: dict[str, Tensor] = {}
        for name, size in self.maps.items():
            one = found.get(name)
            if one is None or tuple(one.shape[1:]) != tuple(size):
                given = "nothing" if one is None else "x".join(map(str, one.shape[1:]))
                raise UserError(
                    f"the teacher gives {given} as {name!r} of some images and {'x'.join(map(str, size))} of others; a "
                    "bank keeps maps of one size, so set data.image_size to one that the teacher takes as it is"
                )
            kept |= self._packed_map(f"maps.{name}", one.detach().float().permute(0, 2, 3, 1))
        return kept

    def unpacked(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(B,C,h,w) float32 by name, from what `packed` made of them."""
        return {name: self._unpacked_map(f"maps.{name}", kept, size[0]) for name, size in self.maps.items()}

    def _place_bytes(self, num_classes: int) -> int:
        width = DTYPES[self.dtype].itemsize
        return num_classes * width if self.topk is None else self.topk * (width + 1) + width

    def _packed_map(self, place: str, logits: Tensor) -> dict[str, Tensor]:
        if self.topk is None:
            return {place: narrowed(logits, self.dtype, "logits").contiguous()}
        values, classes = logits.topk(self.topk, dim=-1)
        rest = logits.scatter(-1, classes, -math.inf).logsumexp(dim=-1)
        return {
            place: narrowed(values, self.dtype, "logits"),
            f"{place}.classes": classes.to(torch.uint8).cpu(),  # masks have at most 255 classes
            f"{place}.rest": narrowed(rest, self.dtype, "logits"),
        }

    def _unpacked_map(self, place: str, kept: Mapping[str, Tensor], num_classes: int) -> Tensor:
        logits = kept[place].float()
        if self.topk is not None:
            # The rest's mass is spread evenly over the classes that were not kept, as `restored_logits` does.
            each = kept[f"{place}.rest"].float() - math.log(num_classes - self.topk)
            spread = each[..., None].repeat(1, 1, 1, num_classes)
            logits = spread.scatter_(-1, kept[f"{place}.classes"].long(), logits)
        return logits.permute(0, 3, 1, 2)
