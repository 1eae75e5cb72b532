"""DOT's arithmetic: one momentum per loss, over lists of tensors, without a loop over parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch

from understudy.config import UserError
from understudy.updates.parts import Gradients, Part, summed
from understudy.updates.reach import reached_by

__all__ = ["RULES", "adamw_", "check_momenta", "checked_optimizer", "reached_by", "sgd_"]


def sgd_(part: Part, gradients: Gradients) -> None:
    """v <- momentum v + (1 - dampening) (g + decay p) per stream, v = g at its first step; p <- p - lr sum(v)."""
    group = part.group
    for place, (stream, found) in enumerate(gradients.items()):
        share = 1.0 if part.age(stream) == 0 else 1.0 - group["dampening"]
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
    roots = torch._foreach_sqrt(part.squares)
    torch._foreach_div_(roots, (1 - group["beta2"] ** (part.age_of_squares() + 1)) ** 0.5)
    torch._foreach_add_(roots, group["eps"])
    for stream in streams:
        beta = part.momentum(stream)
        gain = (1 - group["momentum"]) / (1 - beta) if group["gain"] == "heavy_ball" else 1.0
        torch._foreach_lerp_(part.momenta[stream], gradients[stream], 1 - beta)
        bias = 1 - beta ** (part.age(stream) + 1)
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
