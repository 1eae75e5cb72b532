"""Joining the processes of a run, and what is asked before: how many, which device, who speaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist

from understudy.distributed.environment import launched_world_size
from understudy.distributed.world import SINGLE, World, current_world
from understudy.utils.errors import UserError
from understudy.utils.text import plural

__all__ = ["current", "device_named", "joined"]

TIMEOUT = timedelta(minutes=30)  # of one exchange: a first compiled step may take long, a dead peer is noticed sooner


def device_named(name: str, world: World = SINGLE) -> torch.device:
    """The device of a recipe; "auto" is CUDA where torch finds it, each process of a machine on a GPU of its own.

    Raises:
        UserError: torch finds no such device here, or several processes are to share one.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {name}, but torch finds no CUDA device here; set device=cpu")
    if number and int(number) >= (count := torch.cuda.device_count()):
        there = ", ".join(f"cuda:{place}" for place in range(count))
        raise UserError(f"device: {name}, but torch finds {plural(count, 'CUDA device')} here ({there})")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("device: mps, but torch finds no GPU of Apple's here; set device=cpu")
    if world.size > 1 and (number or kind == "mps"):
        raise UserError(
            f"device: {name} is one GPU, and {world.size} processes train, each on one of its own; set device=cuda or "
            "device=cpu"
        )
    return torch.device(name, world.local_rank) if name == "cuda" and world.size > 1 else torch.device(name)


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """Make a CUDA device the one that is meant where none is named, as its random numbers are, until the block ends."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        yield


@contextmanager
def joined() -> Iterator[World]:
    """This process among those that torchrun has started, until the block ends; the only one without torchrun.

    Raises:
        UserError: the launcher's variables are incomplete, or the other processes cannot be reached.
    """
    if launched_world_size() == 1 or dist.is_initialized():
        yield current_world() if dist.is_initialized() else SINGLE
        return
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        dist.init_process_group("cuda:nccl,cpu:gloo" if has_cuda else "gloo", timeout=TIMEOUT)
    except (ValueError, RuntimeError, dist.DistError) as error:
        raise UserError(f"the processes of this run cannot be brought together: {str(error).splitlines()[0]}") from None
    try:
        yield current_world()
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise UserError(
                "another process of this run is gone or cannot be reached; started again, the run goes on from its "
                f"last checkpoint ({str(error).splitlines()[0][:200]})"
            ) from None
        raise
    finally:
        dist.destroy_process_group()
