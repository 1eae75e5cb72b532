"""A forward pass in training mode, tried before training: what a batch of so few images would end in."""

from __future__ import annotations

from torch import Tensor, nn

from understudy.core.passes import left_as_it_was
from understudy.utils.seeding import seeded

__all__ = ["USUAL_IMAGES", "training_problem"]

USUAL_IMAGES = 16  # on which every network can be trained: so many need not be tried


def training_problem(module: nn.Module, images: Tensor) -> str | None:
    """What keeps the network from being trained on these images, in a line; None where nothing does.

    Modes, buffers and the random state are put back.

    Args:
        module: a network, tapped or not.
        images: (B,3,H,W); only their shape and device matter.
    """
    try:
        with left_as_it_was(module, trains=True), seeded(0):
            module(images)
    except Exception as error:  # a network of someone else's may raise anything
        return (str(error) or type(error).__name__).splitlines()[0]
    return None
