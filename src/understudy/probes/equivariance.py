"""Equivariance: how far each block of a student is from moving its output as its input is moved, while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from understudy.analysis.equivariance import block_equivariance, block_paths, keeps_plane
from understudy.probes.base import Probe, Probed, Sight, Value
from understudy.utils.errors import UserError

__all__ = ["BlockEquivariance"]

MOST_IMAGES = 32
MOST_BLOCKS = 24


class BlockEquivariance(Probe, name="equivariance"):
    """mu_T of every block that keeps the plane of its input, on the first images of a step, relative to its output.

    Miles, Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI 2024, eq. 14 and
    table 7, whose shifts, filling, blocks and scale are not published: here zeros enter, shifts are by one place, and
    values compare with each other alone (`block_equivariance`). Blocks are looked at in evaluation mode.
    """

    def __init__(self, student: Probed) -> None:
        super().__init__(student)
        self._blocks = {path: student.network.get_submodule(path) for path in block_paths(student.network)}
        self._hooks: list[RemovableHandle] = []
        self._given: dict[str, Tensor] = {}

    def problem(self) -> str | None:
        """A network without lists of layers."""
        return None if self._blocks else "its network has no blocks in lists of layers, such as blocks.3 or layer1.0"

    def begin(self) -> None:
        """Have each block tell what enters it."""
        self._given = {}
        self._hooks = [block.register_forward_hook(self._heard(path)) for path, block in self._blocks.items()]

    def look(self, sight: Sight) -> Mapping[str, Value]:
        """By block, and "mean" over them."""
        for hook in self._hooks:
            hook.remove()
        num_prefix = int(getattr(self.student.network, "num_prefix_tokens", 0) or 0)
        found: dict[str, Value] = {}
        for path, given in list(self._given.items())[:MOST_BLOCKS]:
            with _at_rest(self._blocks[path]), suppress(UserError):  # tokens that make no square
                found[path] = block_equivariance(self._blocks[path], given, num_prefix=num_prefix).relative
        self._given = {}
        return {**found, "mean": sum(found.values()) / len(found)} if found else {}

    def _heard(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hear(block: nn.Module, given: tuple[Any, ...], out: Any) -> None:
            are_tensors = len(given) == 1 and isinstance(given[0], Tensor) and isinstance(out, Tensor)
            if are_tensors and keeps_plane(given[0], out):
                self._given[path] = given[0][:MOST_IMAGES].detach().float()

        return hear


@contextmanager
def _at_rest(block: nn.Module) -> Iterator[None]:
    """In evaluation mode, every part of it; no random number is drawn there and no statistic moved."""
    modes = {part: part.training for part in block.modules()}
    block.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
