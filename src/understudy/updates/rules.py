"""DOT's arithmetic: one momentum per loss, over lists of tensors, without a loop over parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from understudy.config import UserError

__all__ = [
    "RULES",
    "STREAMS",
    "Part",
    "adamw_",
    "check_momenta",
    "checked_optimizer",
    "momentum_key",
    "parts_of",
    "reached_by",
    "sgd_",
    "summed",
]

# The losses by name, with the sign of delta in the momentum of each. The first that reaches a parameter carries its
# weight decay. DeepKD's three streams are the same mechanism with one more name.
STREAMS = {"task": -1.0, "distill": +1.0}

Gradients = Mapping[str, list[Tensor]]  # by stream


@dataclass(frozen=True, slots=True)
class Part:
    """Parameters of one group that the same losses reach, with the lists that a step works on."""

    group: dict[str, Any]
    parameters: list[Tensor]
    places: dict[str, slice]  # where their gradients lie among all of a stream's
    momenta: dict[str, list[Tensor]]
    squares: list[Tensor]  # AdamW's second moments, else empty

    def cut(self, gradients: Gradients) -> dict[str, list[Tensor]]:
        """The gradients of these parameters, out of those of all."""
        return {stream: gradients[stream][place] for stream, place in self.places.items()}

    def momentum(self, stream: str) -> float:
        """The stream's own where several meet, else the group's."""
        shift = STREAMS[stream] * self.group["delta"] if len(self.places) > 1 else 0.0
        return float(self.group["momentum"] + shift)


def momentum_key(stream: str) -> str:
    """Name of a stream's momentum in the optimizer's state; a parameter that has it is reached by the stream."""
    return f"momentum_{stream}"


def parts_of(groups: Iterable[dict[str, Any]], state: Mapping[Tensor, dict[str, Tensor]]) -> list[Part]:
    """The parameters of every group, apart by the streams that reach them; what no stream reaches is left out."""
    parts: list[Part] = []
    ends = dict.fromkeys(STREAMS, 0)
    for group in groups:
        alike: dict[tuple[str, ...], list[Tensor]] = {}
        for parameter in group["params"]:
            known = state.get(parameter, {})
            alike.setdefault(tuple(stream for stream in STREAMS if momentum_key(stream) in known), []).append(parameter)
        alike.pop((), None)
        for streams, parameters in alike.items():
            places = {stream: slice(ends[stream], ends[stream] + len(parameters)) for stream in streams}
            ends |= {stream: place.stop for stream, place in places.items()}
            momenta = {stream: [state[p][momentum_key(stream)] for p in parameters] for stream in streams}
            squares: list[Tensor] = []
            if group["optimizer"] == "adamw":
                squares = [state[p].setdefault("second_moment", torch.zeros_like(p)) for p in parameters]
            parts.append(Part(group, parameters, places, momenta, squares))
    return parts


def summed(gradients: Gradients) -> list[Tensor]:
    """The streams' gradients of one part, added up."""
    total, *others = gradients.values()
    for other in others:
        total = list(torch._foreach_add(total, other))
    return total


def sgd_(part: Part, gradients: Gradients) -> None:
    """v <- momentum v + (1 - dampening) (g + decay p) per stream, v = g at its first step; p <- p - lr sum(v)."""
    group = part.group
    for place, (stream, found) in enumerate(gradients.items()):
        share = 1.0 if group["steps"][stream] == 0 else 1.0 - group["dampening"]
        momenta = part.momenta[stream]
        torch._foreach_mul_(momenta, part.momentum(stream))
        torch._foreach_add_(momenta, found, alpha=share)
        if place == 0 and group["weight_decay"] != 0:
            # In place: on the CPU a temporary list costs more than all the arithmetic, elsewhere it costs memory.
            torch._foreach_add_(momenta, part.parameters, alpha=share * group["weight_decay"])
        torch._foreach_add_(part.parameters, momenta, alpha=-group["lr"])


def adamw_(part: Part, gradients: Gradients) -> None:
    """One first moment per stream, over the root of one second moment of the sum; decoupled decay, bias-corrected."""
    group, streams = part.group, list(gradients)
    total = summed(gradients)
    torch._foreach_mul_(part.parameters, 1 - group["lr"] * group["weight_decay"])
    torch._foreach_mul_(part.squares, group["beta2"])
    torch._foreach_addcmul_(part.squares, total, total, 1 - group["beta2"])
    age = 1 + max(group["steps"][stream] for stream in streams)
    roots = torch._foreach_sqrt(part.squares)
    torch._foreach_div_(roots, (1 - group["beta2"] ** age) ** 0.5)
    torch._foreach_add_(roots, group["eps"])
    for stream in streams:
        beta = part.momentum(stream)
        gain = (1 - group["momentum"]) / (1 - beta) if group["gain"] == "heavy_ball" else 1.0
        torch._foreach_lerp_(part.momenta[stream], gradients[stream], 1 - beta)
        bias = 1 - beta ** (group["steps"][stream] + 1)
        torch._foreach_addcdiv_(part.parameters, part.momenta[stream], roots, -group["lr"] * gain / bias)


RULES: dict[str, Callable[[Part, Gradients], None]] = {"sgd": sgd_, "adamw": adamw_}


def checked_optimizer(name: str) -> str:
    """The name of an optimizer that DOT has a rule for.

    Raises:
        UserError: any other; the text names the way out.
    """
    if name not in RULES:
        raise UserError(f"DOT has no rule for {name!r}; take {' or '.join(RULES)}, or update joint")
    return name


def check_momenta(momentum: float, delta: float, allow_negative: bool) -> None:
    """Refuse momenta under which a stream would never forget, or would swing.

    Raises:
        UserError: momentum + |delta| is 1 or more; or momentum - |delta| is below 0 and that is not allowed.
    """
    highest, lowest = momentum + abs(delta), momentum - abs(delta)
    if highest >= 1:
        raise UserError(f"{delta:g} with momentum {momentum:g} gives {highest:g}; momentum + |delta| must stay below 1")
    if lowest < 0 and not allow_negative:
        raise UserError(
            f"{delta:g} with momentum {momentum:g} gives {lowest:g}; momentum - |delta| must not fall below 0, "
            "unless allow_negative_momentum is set"
        )


def reached_by(loss: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    """Those of the parameters that the loss's graph leads to; the graph is kept, frozen parameters are left out."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        return []
    found = torch.autograd.grad(loss, trainable, retain_graph=True, allow_unused=True)
    return [parameter for parameter, gradient in zip(trainable, found, strict=True) if gradient is not None]
