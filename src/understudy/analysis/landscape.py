"""The loss around a minimum, along directions that are scaled filter by filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from understudy.utils.errors import UserError

__all__ = ["Landscape", "filter_normalised", "landscape", "losses_at", "random_direction", "sharpness"]

Floats = npt.NDArray[np.float64]
Direction = dict[str, Tensor]  # by parameter


@dataclass(frozen=True, slots=True)
class Landscape:
    """The loss on a grid around the weights.

    Attributes:
        steps: (K,) how far along each direction, 0 among them.
        losses: (K,) along one direction, (K, K) along two: rows are the first.
        sharpness: how far the loss rises within the grid, over 1 + the loss at the centre, in percent: Keskar et al.,
            ICLR 2017, eq. 4, on these directions alone.
    """

    steps: Floats
    losses: Floats
    sharpness: float


def random_direction(module: nn.Module, *, seed: int) -> Direction:
    """A normal direction by parameter, the same for every network of this layout and seed."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) for name, p in module.named_parameters()}


def filter_normalised(module: nn.Module, direction: Direction) -> Direction:
    """The direction with every filter as long as the network's own; none in biases and norms.

    Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, section 4: d <- d / ||d|| ||w|| for each
    filter (or neuron), so that networks of other scales can be compared.

    Raises:
        UserError: a direction of another layout.
    """
    named = dict(module.named_parameters())
    if {name: p.shape for name, p in named.items()} != {name: d.shape for name, d in direction.items()}:
        raise UserError("a direction needs the parameters of the network, name by name and shape by shape")
    return {name: _scaled(direction[name].to(weight), weight.detach()) for name, weight in named.items()}


def landscape(
    module: nn.Module,
    loss: Callable[[], float],
    directions: Sequence[Direction],
    *,
    steps: Sequence[float] = tuple(np.linspace(-1, 1, 21).tolist()),
) -> Landscape:
    """The loss at the weights plus steps along one or two directions; the network gets its weights back.

    Batch norms keep the statistics that they have (evaluation mode), as the paper's authors evaluate it.

    Args:
        module: whose parameters are moved.
        loss: of the network as it stands, on a fixed set of images.
        directions: one or two, `filter_normalised`.
        steps: along each, with 0 among them.

    Raises:
        UserError: another number of directions, or no step 0.
    """
    if len(directions) not in (1, 2) or 0.0 not in steps:
        raise UserError(f"a landscape has one or two directions and 0 among its steps, got {len(directions)}, {steps}")
    places = [(x,) for x in steps] if len(directions) == 1 else [(x, y) for x in steps for y in steps]
    losses = losses_at(module, loss, directions, places).reshape((len(steps),) * len(directions))
    centre = float(losses[(list(steps).index(0.0),) * len(directions)])
    return Landscape(np.array(steps), losses, sharpness(losses, centre))


def losses_at(
    module: nn.Module, loss: Callable[[], float], directions: Sequence[Direction], places: Sequence[Sequence[float]]
) -> Floats:
    """(P,) the loss at each of the places, a step along each direction; the network gets its weights back."""
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    try:
        return np.array([_loss_at(module, before, directions, place, loss) for place in places], dtype=np.float64)
    finally:
        _move(module, before, (), ())


def sharpness(losses: Floats, centre: float) -> float:
    """How far the loss rises over the one at the centre, over 1 + that, in percent; see `Landscape`."""
    return float(100 * (np.nanmax(losses) - centre) / (1 + centre))


def _loss_at(
    module: nn.Module,
    before: Direction,
    directions: Sequence[Direction],
    place: Sequence[float],
    loss: Callable[[], float],
) -> float:
    _move(module, before, directions, place)
    return float(loss())


@torch.no_grad()
def _move(module: nn.Module, before: Direction, directions: Sequence[Direction], place: Sequence[float]) -> None:
    for name, parameter in module.named_parameters():
        moved = before[name]
        for direction, step in zip(directions, place, strict=True):
            moved = moved + step * direction[name].to(moved)
        parameter.copy_(moved)


def _scaled(direction: Tensor, weight: Tensor) -> Tensor:
    if weight.ndim <= 1:  # biases and norms stay where they are
        return torch.zeros_like(weight)
    rows, own = direction.flatten(1), weight.flatten(1)
    unit = rows / (rows.norm(dim=1, keepdim=True) + 1e-10)
    return torch.mul(unit, own.norm(dim=1, keepdim=True)).view_as(weight)
