"""Parts: parameters that the same losses reach, laid out in lists for a step without a loop over parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["SQUARES", "Gradients", "Part", "Streams", "clipped", "joined_key", "momentum_key", "parts_of", "summed"]

SQUARES = "second_moment"  # its name in the state
# What the second moment starts from, of optimizers that have one.
FIRST_SQUARES = {"adamw": 0.0, "nadam": 0.0, "rmsprop": 0.0, "rmsprop_tf": 1.0}

Gradients = Mapping[str, list[Tensor]]  # by stream


@dataclass(frozen=True, slots=True)
class Streams:
    """The losses that an optimizer keeps apart, by name; the first that reaches a parameter carries its weight decay.

    Attributes:
        owner: the optimizer, in words for people.
        shifts: by stream, the setting of a parameter group that its momentum is shifted by, and the sign of it.
    """

    owner: str
    shifts: Mapping[str, tuple[str, float]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shifts)

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings that shift a momentum."""
        return tuple(dict.fromkeys(setting for setting, _ in self.shifts.values()))

    def shift(self, stream: str, settings: Mapping[str, Any]) -> float:
        """What is added to a stream's momentum where several meet."""
        setting, sign = self.shifts[stream]
        shift: float = sign * settings[setting]
        return shift


@dataclass(frozen=True, slots=True)
class Part:
    """Parameters of one group that the same losses reach since the same step, with the lists that a step works on."""

    group: dict[str, Any]
    parameters: list[Tensor]
    places: dict[str, slice]  # where their gradients lie among all of a stream's
    momenta: dict[str, list[Tensor]]
    squares: list[Tensor]  # second moments, where the optimizer has them
    joined: dict[str, int]  # steps of the group before these had that momentum, or second moment
    streams: Streams

    def cut(self, gradients: Gradients) -> dict[str, list[Tensor]]:
        """The gradients of these parameters, out of those of all."""
        return {stream: gradients[stream][place] for stream, place in self.places.items()}

    def momentum(self, stream: str) -> float:
        """The stream's own where several meet, else the group's; apart by as much of delta as there is by now."""
        shift = self.streams.shift(stream, self.group) if len(self.places) > 1 else 0.0
        warmup = self.group["delta_warmup"]
        if warmup:
            shift *= min(max(self.group["steps"].values()) / warmup, 1.0)
        return float(self.group["momentum"] + shift)

    def age(self, stream: str) -> int:
        """How often the stream has moved these parameters."""
        return int(self.group["steps"][stream] - self.joined[stream])

    def age_of_squares(self) -> int:
        """How many gradients their second moments hold."""
        return int(max(self.group["steps"].values()) - self.joined[SQUARES])


def momentum_key(stream: str) -> str:
    """Name of a stream's momentum in the optimizer's state; a parameter that has it is reached by the stream."""
    return f"momentum_{stream}"


def joined_key(stream: str) -> str:
    """Name in the optimizer's state of how many steps its group had taken before; what joined at once has none."""
    return f"joined_{stream}"


def parts_of(groups: Iterable[dict[str, Any]], state: Mapping[Tensor, dict[str, Any]], streams: Streams) -> list[Part]:
    """The trainable parameters of every group, apart by the streams that reach them and since when; others left out."""
    parts: list[Part] = []
    ends = dict.fromkeys(streams, 0)
    for group in groups:
        alike: dict[tuple[tuple[str, int], ...], list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.requires_grad and (known := _known_of(parameter, group, state, streams)):
                alike.setdefault(known, []).append(parameter)
        for known, parameters in alike.items():
            reaching = [stream for stream, _ in known if stream in streams.shifts]
            places = {stream: slice(ends[stream], ends[stream] + len(parameters)) for stream in reaching}
            ends |= {stream: place.stop for stream, place in places.items()}
            momenta = {stream: [state[p][momentum_key(stream)] for p in parameters] for stream in reaching}
            squares = [state[p][SQUARES] for p in parameters if group["optimizer"] in FIRST_SQUARES]
            parts.append(Part(group, parameters, places, momenta, squares, dict(known), streams))
    return parts


def _known_of(
    parameter: Tensor, group: dict[str, Any], state: Mapping[Tensor, dict[str, Any]], streams: Streams
) -> tuple[tuple[str, int], ...]:
    """What a parameter has of its own, with the steps of its group before that; a second moment is begun here."""
    mine = state.get(parameter, {})
    reaching = [stream for stream in streams if momentum_key(stream) in mine]
    first = FIRST_SQUARES.get(group["optimizer"])
    if reaching and first is not None and SQUARES not in mine:
        mine[SQUARES] = torch.full_like(parameter, first)
        if passed := max(group["steps"].values()):
            mine[joined_key(SQUARES)] = passed
    names = reaching if first is None or not reaching else [*reaching, SQUARES]
    return tuple((name, mine.get(joined_key(name), 0)) for name in names)


def summed(gradients: Gradients) -> list[Tensor]:
    """The streams' gradients of one part, added up."""
    total, *others = gradients.values()
    for other in others:
        total = list(torch._foreach_add(total, other))
    return total


def clipped(gradients: Gradients, parts: Iterable[Part], longest: float) -> dict[str, list[Tensor]]:
    """The gradients scaled by one factor, so that the sum of the streams, over all parts together, is not longer."""
    sums = [summed(part.cut(gradients)) for part in parts]
    norm = nn.utils.get_total_norm(chain.from_iterable(sums))
    factor = torch.clamp(longest / (norm + 1e-6), max=1.0)
    return {stream: list(torch._foreach_mul(found, factor)) for stream, found in gradients.items()}
