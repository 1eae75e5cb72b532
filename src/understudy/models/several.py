"""Several networks that look at the same images, as one with an output for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from understudy.core.outputs import LOGITS
from understudy.models.network import Network, Prepare

__all__ = ["SeveralNetworks", "beside"]


class SeveralNetworks(nn.Module):
    """Images in [0,1] to (B,C) logits of each network by name, each after its own normalisation and resizing.

    Attributes:
        parts: the networks as they are by themselves, by the same names; their weights are the ones that are run.
    """

    def __init__(self, parts: Mapping[str, Network]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({name: network.prepared for name, network in parts.items()})
        self.parts = dict(parts)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Their logits by name."""
        return {name: network(images) for name, network in self.networks.items()}


def beside(first: Network, others: Mapping[str, Network]) -> Network:
    """A network that gives the first one's logits as "logits", and each other's under its name.

    Args:
        first: whose input size it has.
        others: by the name of their output.
    """
    every = {LOGITS: first, **others}
    return replace(
        first,
        name=" and ".join(network.name for network in every.values()),
        module=SeveralNetworks(every),
        prepare=Prepare(channels=first.prepare.channels),
        starts_from="; ".join(dict.fromkeys(network.starts_from for network in every.values())),
    )
