"""DOT's arithmetic: one momentum per loss, over lists of tensors, without a loop over parameters.

In every rule s runs over the losses that reach a parameter, g_s are their gradients, g is their sum, and m_s is the
momentum of each: momentum - delta for the task's, momentum + delta for the distill's, momentum itself where one is
alone. At delta 0 each rule is the optimizer it is named after, on the summed loss.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from understudy.optim.dot.parts import Gradients, Part, summed
from understudy.optim.dot.reach import reached_by

__all__ = [
    "RULES",
    "adamw_",
    "lion_",
    "nadam_",
    "nesterov_",
    "reached_by",
    "rmsprop_",
    "rmsprop_tf_",
    "rule_of",
    "sgd_",
]

MOMENTUM_DECAY = 4e-3  # psi of NAdam, as torch has it


def sgd_(part: Part, gradients: Gradients) -> None:
    """v_s <- m_s v_s + (1 - dampening) g_s, v_s = g_s at its first step; p <- p - lr sum(v_s).

    The decay joins the gradient of the first stream: g_s + decay p.
    """
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


def nesterov_(part: Part, gradients: Gradients) -> None:
    """v_s <- m_s v_s + g_s; p <- p - lr sum(g_s + m_s v_s). The decay joins the first stream's gradient.

    Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, in torch's form.
    """
    for stream, found in _decayed(part, gradients).items():
        momentum = part.momentum(stream)
        torch._foreach_mul_(part.momenta[stream], momentum)
        torch._foreach_add_(part.momenta[stream], found)
        torch._foreach_add_(part.parameters, found, alpha=-part.group["lr"])
        torch._foreach_add_(part.parameters, part.momenta[stream], alpha=-part.group["lr"] * momentum)


def rmsprop_(part: Part, gradients: Gradients) -> None:
    """q <- alpha q + (1 - alpha) g^2; v_s <- m_s v_s + g_s / (sqrt(q) + eps); p <- p - lr sum(v_s).

    q starts from 0 and the decay joins the first stream's gradient, and so g, as in torch's RMSprop.
    """
    group, found = part.group, _decayed(part, gradients)
    total = summed(found)
    torch._foreach_mul_(part.squares, group["alpha"])
    torch._foreach_addcmul_(part.squares, total, total, 1 - group["alpha"])
    roots = torch._foreach_sqrt(part.squares)
    torch._foreach_add_(roots, group["eps"])
    for stream in found:
        torch._foreach_mul_(part.momenta[stream], part.momentum(stream))
        torch._foreach_addcdiv_(part.momenta[stream], found[stream], roots)
        torch._foreach_add_(part.parameters, part.momenta[stream], alpha=-group["lr"])


def rmsprop_tf_(part: Part, gradients: Gradients) -> None:
    """q <- alpha q + (1 - alpha) g^2; v_s <- m_s v_s + lr g_s / sqrt(q + eps); p <- p - sum(v_s).

    As TensorFlow and timm's RMSpropTF have it: q starts from 1, eps under the root, the rate in the momenta. The decay
    joins the first stream's gradient, and so g.
    """
    group, found = part.group, _decayed(part, gradients)
    total = summed(found)
    torch._foreach_lerp_(part.squares, torch._foreach_mul(total, total), 1 - group["alpha"])
    roots = torch._foreach_add(part.squares, group["eps"])
    torch._foreach_sqrt_(roots)
    for stream in found:
        torch._foreach_mul_(part.momenta[stream], part.momentum(stream))
        torch._foreach_addcdiv_(part.momenta[stream], found[stream], roots, group["lr"])
        torch._foreach_sub_(part.parameters, part.momenta[stream])


def adamw_(part: Part, gradients: Gradients) -> None:
    """v_s <- m_s v_s + (1 - m_s) g_s; q <- beta2 q + (1 - beta2) g^2; p <- (1 - lr decay) p - lr sum(n_s) / r.

    n_s = gain_s v_s / (1 - m_s^t), r = sqrt(q / (1 - beta2^t)) + eps; t is the age of each, 1 at its first step. Where
    the gradients of two losses all but cancel, q is small and a step can be many times lr: 59 were seen.
    """
    group = part.group
    torch._foreach_mul_(part.parameters, 1 - group["lr"] * group["weight_decay"])
    roots = _roots_of_second_moments(part, summed(gradients))
    for stream, found in gradients.items():
        beta = part.momentum(stream)
        torch._foreach_lerp_(part.momenta[stream], found, 1 - beta)
        bias = 1 - beta ** (part.age(stream) + 1)
        torch._foreach_addcdiv_(part.parameters, part.momenta[stream], roots, -group["lr"] * _gain(part, stream) / bias)


def nadam_(part: Part, gradients: Gradients) -> None:
    """v_s, q and r as under AdamW; p <- p - lr sum(n_s) / r, where n_s looks ahead by a momentum mu_t that grows.

    n_s = gain_s (mu_(t+1) v_s / (1 - mu_1 ... mu_(t+1)) + (1 - mu_t) g_s / (1 - mu_1 ... mu_t)), where
    mu_t = m_s (1 - 0.96^(t psi) / 2), psi = 0.004. The decay joins the first stream's gradient, and so g.
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR 2016 workshop, as in torch's NAdam; differs from it where a
    scheduler changes the momentum within the first 60 steps: the products are those of the present one.
    """
    group, gradients = part.group, _decayed(part, gradients)
    roots = _roots_of_second_moments(part, summed(gradients))
    for stream, found in gradients.items():
        beta, age = part.momentum(stream), part.age(stream) + 1
        torch._foreach_lerp_(part.momenta[stream], found, 1 - beta)
        product, now, following = _nadam_factors(beta, age)
        rate = -group["lr"] * _gain(part, stream)
        torch._foreach_addcdiv_(part.parameters, found, roots, rate * (1 - now) / (1 - product))
        ahead = rate * following / (1 - product * following)
        torch._foreach_addcdiv_(part.parameters, part.momenta[stream], roots, ahead)


def lion_(part: Part, gradients: Gradients) -> None:
    """p <- (1 - lr decay) p - lr sign(sum(gain_s (m_s v_s + (1 - m_s) g_s))); v_s <- beta2 v_s + (1 - beta2) g_s.

    Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2, as in timm; m_s is its beta_1.
    """
    group = part.group
    torch._foreach_mul_(part.parameters, 1 - group["lr"] * group["weight_decay"])
    blends = {}
    for stream, found in gradients.items():
        blend = torch._foreach_lerp(part.momenta[stream], found, 1 - part.momentum(stream))
        blends[stream] = list(torch._foreach_mul(blend, _gain(part, stream)))
        torch._foreach_lerp_(part.momenta[stream], found, 1 - group["beta2"])
    torch._foreach_add_(part.parameters, torch._foreach_sign(summed(blends)), alpha=-group["lr"])


RULES: dict[str, Callable[[Part, Gradients], None]] = {
    "sgd": sgd_,
    "adamw": adamw_,
    "rmsprop": rmsprop_,
    "rmsprop_tf": rmsprop_tf_,
    "nadam": nadam_,
    "lion": lion_,
}


def rule_of(part: Part) -> Callable[[Part, Gradients], None]:
    """The rule that moves these parameters, after their group's settings."""
    return nesterov_ if part.group["nesterov"] else RULES[part.group["optimizer"]]


def _decayed(part: Part, gradients: Gradients) -> dict[str, list[Tensor]]:
    """The gradients, the decay of the parameters as they are now in that of the first stream."""
    found = dict(gradients)
    if part.group["weight_decay"] != 0:
        first = next(iter(found))
        found[first] = list(torch._foreach_add(found[first], part.parameters, alpha=part.group["weight_decay"]))
    return found


def _roots_of_second_moments(part: Part, total: list[Tensor]) -> list[Tensor]:
    """The second moments take in a gradient; out come their roots, corrected for their age, plus eps."""
    group = part.group
    torch._foreach_mul_(part.squares, group["beta2"])
    torch._foreach_addcmul_(part.squares, total, total, 1 - group["beta2"])
    roots = torch._foreach_sqrt(part.squares)
    torch._foreach_div_(roots, (1 - group["beta2"] ** (part.age_of_squares() + 1)) ** 0.5)
    torch._foreach_add_(roots, group["eps"])
    return list(roots)


def _gain(part: Part, stream: str) -> float:
    """What a first moment that gains 1 for any momentum is weighed by."""
    if part.group["gain"] == "ema":
        return 1.0
    return float((1 - part.group["momentum"]) / (1 - part.momentum(stream)))


def _nadam_factors(beta: float, age: int) -> tuple[float, float, float]:
    """mu_1 ... mu_t, mu_t and mu_(t+1) of NAdam at t = `age`."""

    def factor(step: int) -> float:
        return float(beta * (1 - 0.5 * 0.96 ** (step * MOMENTUM_DECAY)))

    product = 1.0
    for step in range(1, age + 1):
        product *= factor(step)
        if abs(product) < 1e-20:  # nothing beside the 1 that it is taken from
            break
    return product, factor(age), factor(age + 1)
