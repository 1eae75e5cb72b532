"""Rows of a bank: a teacher's look at some images, packed for the disk and unpacked for a step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from understudy.core.config import Config
from understudy.utils.errors import UserError

__all__ = ["BankLayout", "feature_names", "joined_rows", "named_alike", "packed", "restored_logits", "unpacked"]

StoredType = Literal["float16", "float32"]

DTYPES: dict[StoredType, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}
PLACE_BYTES = 4 + 1  # int32 sample number and uint8 copy, with every row


class BankLayout(Config):
    """What every row of a bank holds, and how the rows of a view are cut into shards."""

    dtype: StoredType = "float16"
    centred: bool = False  # float16 logits are differences from an offset of their row, in float32; older banks: not
    topk: int | None = Field(default=None, ge=1)  # logits that are kept; None: all
    num_classes: int = Field(ge=1)  # C_t, the teacher's
    taps: dict[str, tuple[int, ...]] = Field(default_factory=dict)  # size of each feature: (D,) or (D,H,W)
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)  # what "stages" and "preact_stages" stand for
    num_samples: int = Field(ge=1, lt=2**31)  # N
    num_copies: int = Field(default=1, ge=1, le=255)  # images of each sample in a view
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
    def row_bytes(self) -> int:
        """Bytes of one image in one view."""
        width = DTYPES[self.dtype].itemsize
        kept = self.num_classes * width
        if self.topk is not None:
            kept = self.topk * (width + _class_type(self.num_classes).itemsize) + torch.float32.itemsize
        kept += torch.float32.itemsize * self.centred
        return PLACE_BYTES + kept + width * sum(math.prod(size) for size in self.taps.values())

    @property
    def view_bytes(self) -> int:
        """Bytes of one view of all images."""
        return self.num_samples * self.num_copies * self.row_bytes

    def steps_of(self, shard: int) -> range:
        """Batches of a view that a shard holds."""
        start = shard * self.steps_per_shard
        return range(start, min(start + self.steps_per_shard, self.num_steps))


def packed(logits: Tensor, features: Mapping[str, Tensor], layout: BankLayout) -> dict[str, Tensor]:
    """What the disk keeps of the rows.

    Args:
        logits: (B,C_t) of any float type.
        features: (B,D) or (B,D,H,W) by tap.
        layout: dtype and top-k.

    Returns:
        On the CPU: "logits" (B,C_t), or of the largest k "logits" and "classes" (B,k) and of the others "rest" (B,),
        the logarithm of the sum of their exponentials; "offset" (B,) of a centred layout; and "features.TAP", or
        "last.TAP" (B,H,W,D) of channels_last maps, which so come back in their own memory format.

    Raises:
        UserError: a value is NaN or infinite, or too large for float16.
    """
    logits = logits.detach().float()
    kept: dict[str, Tensor] = {}
    if layout.topk is None:
        kept |= _narrowed_logits(logits, layout)
    else:
        values, classes = logits.topk(layout.topk, dim=1)
        others = logits.scatter(1, classes, -math.inf)
        kept |= _narrowed_logits(values, layout)
        kept["classes"] = classes.to(_class_type(layout.num_classes)).cpu()
        kept["rest"] = _narrowed(others.logsumexp(dim=1), "float32", "logits")
    for tap, feature in features.items():
        narrow = _narrowed(feature.detach().float(), layout.dtype, f"features at {tap!r}")
        is_last = narrow.ndim == 4 and not narrow.is_contiguous()
        here, last = feature_names(tap)
        kept[last if is_last else here] = (narrow.permute(0, 2, 3, 1) if is_last else narrow).contiguous()
    return kept


def unpacked(kept: Mapping[str, Tensor], layout: BankLayout, taps: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits (B,C_t) and features by tap in float32, from what `packed` made of the rows."""
    logits = kept["logits"].float()
    if "offset" in kept:
        logits = logits + kept["offset"][:, None]
    if layout.topk is not None:
        logits = restored_logits(logits, kept["classes"], kept["rest"], num_classes=layout.num_classes)
    features = {}
    for tap in taps:
        here, last = feature_names(tap)
        features[tap] = (kept[here] if here in kept else kept[last].permute(0, 3, 1, 2)).float()
    return logits, features


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


def _narrowed_logits(logits: Tensor, layout: BankLayout) -> dict[str, Tensor]:
    """(B,K) logits as they are stored; a centred layout's without what all logits of a row have in common.

    float16 has eleven binary digits: of logits around 1,000 it keeps halves, and a teacher's opinion lies in tenths.
    """
    if not layout.centred or not logits.isfinite().all():
        return {"logits": _narrowed(logits, layout.dtype, "logits")}
    lowest, highest = logits.aminmax(dim=1)
    # The value between them that is nearest to 0: rows with logits of both signs are stored as they are.
    offset = lowest.clamp(min=0) + highest.clamp(max=0)
    return {"logits": _narrowed(logits - offset[:, None], layout.dtype, "logits"), "offset": offset.cpu()}


def _narrowed(values: Tensor, dtype: StoredType, what: str) -> Tensor:
    narrow = values.to(DTYPES[dtype])
    if not narrow.isfinite().all():
        if not values.isfinite().all():
            raise UserError(f"the teacher's {what} are NaN or infinite for some image; are its weights whole?")
        raise UserError(
            f"the teacher's {what} reach {values.abs().max():.4g}, and float16 ends at 65,504; store this bank with "
            "--dtype float32"
        )
    return narrow.cpu()


def _class_type(num_classes: int) -> torch.dtype:
    return torch.int16 if num_classes <= torch.iinfo(torch.int16).max else torch.int32
