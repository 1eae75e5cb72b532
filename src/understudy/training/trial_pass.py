"""A forward pass in training mode, tried before training: what a batch of so few images would end in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
    modes = {part: part.training for part in module.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        with seeded(0), torch.no_grad():
            module.train()(images)
    except Exception as error:  # a network of someone else's may raise anything
        return (str(error) or type(error).__name__).splitlines()[0]
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for part, mode in modes.items():
            part.training = mode
    return None
