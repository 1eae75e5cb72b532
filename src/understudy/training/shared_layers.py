"""Networks that must not have anything in common: what one would do to the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, combinations

from torch import nn

from understudy.utils.errors import UserError

__all__ = ["refuse_shared_parts"]

STATELESS = ("activation", "container", "flatten", "linear", "padding", "pooling", "upsampling")  # torch.nn.modules.*


def refuse_shared_parts(networks: Mapping[str, nn.Module]) -> None:
    """Refuse networks of which one is, or has a layer, parameter or buffer of, another.

    A layer in common is in evaluation mode for the teacher and in training mode for the student, and two students
    would each undo what the other has learnt. An activation in common does no harm.

    Args:
        networks: by what messages call them.

    Raises:
        UserError: naming both networks and what they share.
    """
    for (one, first), (other, second) in combinations(networks.items(), 2):
        if first is second:
            raise UserError(f"{one} and {other} are one network, so that each would undo the other; give each a copy")
        theirs = dict(_owned(second))
        shared = next((name for key, name in _owned(first) if key in theirs), None)
        if shared is not None:
            raise UserError(
                f"{one} and {other} share {shared!r}, so that each would undo the other; give each a copy of its own "
                "(copy.deepcopy)"
            )


def _owned(network: nn.Module) -> Iterator[tuple[int, str]]:
    """(identity, name) of everything that mode or training changes."""
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        yield id(tensor), name
    for name, part in network.named_modules():
        _, _, kind = type(part).__module__.rpartition("torch.nn.modules.")
        if name and (kind not in STATELESS or isinstance(part, nn.RReLU)):
            yield id(part), name
