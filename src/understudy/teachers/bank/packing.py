"""Rows of a bank: a teacher's look at some images, packed for the disk and unpacked for a step."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from understudy.core.config import Config
from understudy.teachers.bank.class_rows import ClassRows
from understudy.teachers.bank.map_rows import MapRows
from understudy.teachers.bank.maps_alone import MapsAlone
from understudy.teachers.bank.stored import DTYPES, StoredType, narrowed

__all__ = ["BankLayout", "feature_names", "joined_rows", "map_tapped", "named_alike", "packed", "unpacked"]

PLACE_BYTES = 4 + 1  # int32 sample number and uint8 copy, with every row


class BankLayout(Config):
    """What every row of a bank holds, and how the rows of a view are cut into shards."""

    dtype: StoredType = "float16"
    centred: bool = False  # float16 logits are differences from an offset of their row, in float32; older banks: not
    topk: int | None = Field(default=None, ge=1)  # logits that are kept; None: all
    num_classes: int = Field(ge=1)  # C_t, the teacher's
    maps: dict[str, tuple[int, int, int]] = Field(default_factory=dict)  # (C,h,w) of outputs by name; none: a row
    taps: dict[str, tuple[int, ...]] = Field(default_factory=dict)  # size of each feature: (D,) or (D,H,W)
    canvas: tuple[int, int] | Literal["batch"] | None = None  # that a detector's images are padded to; batch: each its
    # own, and taps then have the size that blank images give
    map_bytes: int = Field(default=0, ge=0)  # of an image's maps where there is a canvas, on average
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)  # what "stages" and "preact_stages" stand for
    num_samples: int = Field(ge=1, lt=2**31)  # N
    num_copies: int = Field(default=1, ge=1, le=255)  # images of each sample in a view
    num_repeats: int = Field(default=1, ge=1, le=255)  # images of a sample in a row, of N / num_repeats of the samples
    batch_size: int = Field(ge=1)  # samples that the teacher saw at once
    steps_per_shard: int = Field(ge=1)

    @model_validator(mode="after")
    def _keeps_fewer_than_there_are(self) -> BankLayout:
        if self.topk is not None and self.topk >= self.num_classes:
            raise ValueError(
                f"--topk {self.topk} of {self.num_classes} classes leaves out none; leave it away, or lower it"
            )
        return self

    @property
    def num_steps(self) -> int:
        """Batches of a view."""
        return -(-self.num_samples // self.batch_size)

    @property
    def num_shards(self) -> int:
        """Shards of a view."""
        return -(-self.num_steps // self.steps_per_shard)

    @property
    def output(self) -> ClassRows | MapRows | MapsAlone:
        """How the teacher's output is kept: a classifier's as rows, a segmenter's as maps, a detector's not at all."""
        if self.canvas is not None:
            return MapsAlone()
        if self.maps:
            return MapRows(self.maps, self.dtype, topk=self.topk)
        return ClassRows(self.num_classes, self.dtype, topk=self.topk, centred=self.centred)

    @property
    def row_bytes(self) -> int:
        """Bytes of one image in one view."""
        features = DTYPES[self.dtype].itemsize * sum(math.prod(size) for size in self.taps.values())
        if self.canvas is not None:
            features = self.map_bytes
        return PLACE_BYTES + self.output.image_bytes + features

    @property
    def view_rows(self) -> int:
        """Rows of a view, where every image can be read."""
        return self.num_samples * self.num_copies

    @property
    def view_bytes(self) -> int:
        """Bytes of one view of all images."""
        return self.view_rows * self.row_bytes

    @property
    def num_draws(self) -> int:
        """Images of a sample that a view may have: its copies, or its repeats."""
        return max(self.num_copies, self.num_repeats)

    def steps_of(self, shard: int) -> range:
        """Batches of a view that a shard holds."""
        start = shard * self.steps_per_shard
        return range(start, min(start + self.steps_per_shard, self.num_steps))


def packed(output: Any, features: Mapping[str, Tensor], layout: BankLayout) -> dict[str, Tensor]:
    """What the disk keeps of the rows.

    Args:
        output: the teacher's, as `layout.output` packs it: (B,C_t) logits, or maps by name.
        features: (B,D) or (B,D,H,W) by tap.
        layout: dtype and top-k.

    Returns:
        On the CPU: the output's tensors (`ClassRows.packed`, `MapRows.packed`); and "features.TAP", or "last.TAP"
        (B,H,W,D) of channels_last maps, which so come back in their own memory format.

    Raises:
        UserError: a value is NaN or infinite, or too large for float16.
    """
    kept = layout.output.packed(output)
    for tap, feature in features.items():
        narrow = narrowed(feature.detach().float(), layout.dtype, f"features at {tap!r}")
        is_last = narrow.ndim == 4 and not narrow.is_contiguous()
        here, last = feature_names(tap)
        kept[last if is_last else here] = (narrow.permute(0, 2, 3, 1) if is_last else narrow).contiguous()
    return kept


def unpacked(kept: Mapping[str, Tensor], layout: BankLayout, taps: Iterable[str]) -> tuple[Any, dict[str, Tensor]]:
    """Output and features by tap in float32, from what `packed` made of the rows."""
    output: Any = layout.output.unpacked(kept)
    features = {}
    for tap in taps:
        if (name := map_tapped(tap, layout.maps)) is not None:
            features[tap] = output[name]
            continue
        here, last = feature_names(tap)
        features[tap] = (kept[here] if here in kept else kept[last].permute(0, 3, 1, 2)).float()
    return output, features


def map_tapped(tap: str, maps: Collection[str]) -> str | None:
    """The output that a tap such as "output.logits" names, where it is kept as a map; None of other taps."""
    name = tap.removeprefix("output.")
    return name if name != tap and name in maps else None


def feature_names(tap: str) -> tuple[str, str]:
    """What a tapped feature is called in a shard: as vectors and contiguous maps, as channels_last maps."""
    return f"features.{tap}", f"last.{tap}"


def named_alike(parts: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The rows of each part under the names of the first, and so in its memory format; nothing is copied.

    Raises:
        LookupError: a part lacks what the first has.
    """
    return [{name: _named(part, name) for name in parts[0]} for part in parts]


def joined_rows(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of all parts in one piece, in the memory format of the first.

    Raises:
        LookupError: a part lacks what the first has.
    """
    alike = named_alike(parts)
    return {name: torch.cat([part[name] for part in alike]).contiguous() for name in parts[0]}


def _named(part: Mapping[str, Tensor], name: str) -> Tensor:
    if name in part:
        return part[name]
    here, last = feature_names(name.partition(".")[2])
    other = part[last if name == here else here]
    if other.ndim != 4:
        raise LookupError(name)
    return other.permute(0, 3, 1, 2) if name == here else other.permute(0, 2, 3, 1)
