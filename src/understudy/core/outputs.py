"""What a network gives: one tensor of logits, or several tensors by name, the batch first in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LOGITS", "LogitsAlone", "changed_outputs", "logits_of", "named_outputs", "trial_loss"]

LOGITS = "logits"  # the output that is predicted with; a lone tensor is that
_OTHER_NAMES = {"out": LOGITS}  # torchvision's segmenters


def named_outputs(output: Any) -> dict[str, Tensor]:
    """The tensors that a network gave, by name; none where it gave neither a tensor nor a dict of them."""
    if isinstance(output, Tensor):
        return {LOGITS: output}
    if not isinstance(output, Mapping):
        return {}
    tensors = {str(name): value for name, value in output.items() if isinstance(value, Tensor)}
    return {_OTHER_NAMES.get(name, name): value for name, value in tensors.items()}


def logits_of(output: Any) -> Tensor | None:
    """The output that is predicted with; None where the network gave nothing of that kind."""
    return named_outputs(output).get(LOGITS)


class LogitsAlone(nn.Module):
    """A network of several outputs as one that gives its logits and nothing else, as a file of one output holds it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        logits = logits_of(self.network(images))
        assert logits is not None, "the network was run before"
        return logits


def trial_loss(output: Any) -> Tensor:
    """() a loss that reaches all that a network gives, for passes that are timed and thrown away."""
    return torch.stack([one.float().square().mean() for one in named_outputs(output).values()]).sum()


def changed_outputs(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same output with `change` done to every tensor in it; anything else stays as it is."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, Mapping):
        return {name: changed_outputs(value, change) for name, value in output.items()}
    if isinstance(output, list | tuple):
        return type(output)(changed_outputs(value, change) for value in output)
    return output
