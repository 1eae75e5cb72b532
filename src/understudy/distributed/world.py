"""World: what the processes of a run share, gather and add up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.utils.errors import UserError

__all__ = ["SINGLE", "RankCounts", "World", "averaged"]

BUCKET_BYTES = 25 * 2**20  # as DistributedDataParallel's; fewer calls than tensors, less memory than all of them

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run, as one of them sees it. A single one exchanges nothing.

    Args:
        rank: 0 .. size - 1 over all machines.
        size: W, how many there are.
        local_rank: which one of this machine; it chooses the GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and talks to people."""
        return self.rank == 0

    def exchange(self, *numbers: int) -> list[tuple[int, ...]]:
        """The numbers of every rank, in their order. Goes over the CPU, so that no accelerator waits."""
        if self.size == 1:
            return [numbers]
        mine = torch.tensor(numbers, dtype=torch.int64)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine)
        return [tuple(int(number) for number in row.tolist()) for row in found]

    def rows(self, num_rows: int) -> RankCounts:
        """How many rows every rank has in this step, this one `num_rows`."""
        return RankCounts(tuple(count for (count,) in self.exchange(num_rows)), self.rank)

    def add_up(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums over all ranks, as new tensors; ranks give tensors of equal shapes, in the same order."""
        if self.size == 1:
            return list(tensors)
        sums: list[Tensor] = []
        for bucket in _buckets(tensors):
            flat = _all_reduced(torch.cat([_flat(tensor) for tensor in bucket]))
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            sums += [_shaped_like(part, tensor) for part, tensor in zip(parts, bucket, strict=True)]
        return sums

    @torch.no_grad()
    def copy_from_first_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite with what rank 0 has."""
        if self.size > 1:
            for tensor in tensors:
                sent = tensor.detach().contiguous()
                dist.broadcast(sent, src=0)
                tensor.copy_(sent)

    @torch.no_grad()
    def average_buffers_(self, module: nn.Module) -> None:
        """Give every rank the mean of the running statistics; counters and the like are equal anyway."""
        if self.size == 1:
            return
        buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        for buffer, total in zip(buffers, self.add_up(buffers), strict=True):
            buffer.copy_(total / self.size)

    def gather(self, pairing: Pairing, rows: RankCounts) -> Pairing:
        """The Pairing of all ranks' rows, in the order that one process would have them in.

        The loss on it must enter the sum over ranks times 1 / W, since every rank computes it whole: the gradient that
        flows back is this rank's rows' times W, a connector's adds up to itself.
        """
        if self.size == 1:
            return pairing
        num_rows = len(pairing.student_logits)
        if pairing.is_ragged:
            counts = [count for (count,) in self.exchange(num_rows)]
        else:
            counts = [count * num_rows // rows.mine for count in rows.counts]

        def whole(tensor: Tensor) -> Tensor:
            return cast(Tensor, _Gathered.apply(tensor, counts, self.rank))

        def maybe(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else whole(tensor)

        gathered = replace(
            pairing,
            student_logits=whole(pairing.student_logits),
            teacher_logits=maybe(pairing.teacher_logits),
            labels=whole(pairing.labels),
            student_features={name: whole(tensor) for name, tensor in pairing.student_features.items()},
            teacher_features={name: whole(tensor) for name, tensor in pairing.teacher_features.items()},
            indices=maybe(pairing.indices),
            copies=maybe(pairing.copies),
            num_plain=None,
            maps={name: whole(one) for name, one in pairing.maps.items()},
        )
        # Each rank's rows come copy by copy; one process has all rows of copy 0, then all of copy 1.
        return gathered if gathered.copies is None else gathered.select(gathered.copies.argsort(stable=True))

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """All ranks' rows of a tensor without gradient, in rank order; ranks may have different numbers of them."""
        if self.size == 1:
            return tensor
        counts = [count for (count,) in self.exchange(len(tensor))]
        return cast(Tensor, _Gathered.apply(tensor, counts, self.rank))

    def gather_objects(self, value: T) -> list[T]:
        """Every rank's value, in rank order; small plain ones."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives on rank 0, on every rank; its UserError, too."""
        if self.size == 1:
            return make()
        sent: list[Any] = [None, None]
        if self.is_first:
            try:
                sent[0] = make()
            except UserError as error:
                sent[1] = str(error)
        dist.broadcast_object_list(sent, src=0)
        if sent[1] is not None:
            raise UserError(sent[1])
        return cast(T, sent[0])


SINGLE = World()


@dataclass(frozen=True, slots=True)
class RankCounts:
    """How the rows of one step lie over the ranks."""

    counts: tuple[int, ...]
    rank: int = 0

    @property
    def mine(self) -> int:
        """Rows of this rank."""
        return self.counts[self.rank]


def averaged(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The means over the processes that torch.distributed has brought together, as DistributedDataParallel takes them.

    A lone process gets its tensors back.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return list(tensors)
    world = current_world()
    return [total / world.size for total in world.add_up(tensors)]


def current_world() -> World:
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


class _Gathered(torch.autograd.Function):
    """Rows of all ranks, concatenated; back goes this rank's part of the gradient, times W."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, counts: list[int], rank: int) -> Tensor:
        ctx.start, ctx.count, ctx.size = sum(counts[:rank]), counts[rank], len(counts)
        most = max(counts)
        padded = mine.new_zeros((most, *mine.shape[1:]))  # gloo gathers equal shapes only
        padded[: counts[rank]] = mine
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded)
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.start : ctx.start + ctx.count] * ctx.size, None, None


def _all_reduced(flat: Tensor) -> Tensor:
    """The sum over all ranks, on the same device; NCCL by itself, as a user may have set it up, has no CPU."""
    if flat.device.type == "cpu" and "cpu" not in dist.get_backend_config():
        return _all_reduced(flat.to("cuda")).cpu()
    dist.all_reduce(flat)
    return flat


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype, about BUCKET_BYTES of them at a time."""
    bucket: list[Tensor] = []
    num_bytes = 0
    for tensor in tensors:
        if bucket and (num_bytes >= BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, num_bytes = [], 0
        bucket.append(tensor)
        num_bytes += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _flat(tensor: Tensor) -> Tensor:
    """(n,) in the order of memory, so that what comes back has its parameter's strides, which foreach kernels want."""
    return (tensor.permute(0, 2, 3, 1) if _is_channels_last(tensor) else tensor).reshape(-1)


def _shaped_like(flat: Tensor, like: Tensor) -> Tensor:
    if not _is_channels_last(like):
        return flat.view(like.shape)
    number, channels, height, width = like.shape
    return flat.view(number, height, width, channels).permute(0, 3, 1, 2)
