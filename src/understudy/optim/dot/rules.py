"""DOT's arithmetic: one momentum per loss, over lists of tensors, without a loop over parameters.

In every rule s runs over the losses that reach a parameter, g_s are their gradients, g is their sum, and m_s is the
momentum of each: momentum - delta for the task's, momentum + delta for the distill's (DeepKD has a delta for each of
three), momentum itself where one is alone. At delta 0 each rule is the optimizer it is named after, on the summed loss.

A rule is two functions: `..._numbers` works out what changes from step to step (the learning rate, what corrects for
age), and `..._` moves the weights by it. The numbers come as floats, or as () tensors on the weights' device: those can
be given other values without Python going through the rule again, as a captured CUDA graph needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from understudy.optim.dot.parts import Gradients, Part, summed
from understudy.optim.dot.reach import reached_by

__all__ = ["MOMENTUM_DECAY", "RULES", "Number", "Rule", "nadam_factors", "reached_by", "rule_of", "skipping_sgd_"]

MOMENTUM_DECAY = 4e-3  # psi of NAdam, as torch has it

Number = float | Tensor  # a tensor: () on the weights' device
Numbers = Mapping[str, Number]
Tensors = list[Tensor] | tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """How gradients become new weights.

    Attributes:
        numbers: of one part, those that change from step to step, by name.
        move_: changes a part's momenta and weights.
    """

    numbers: Callable[[Part], dict[str, float]]
    move_: Callable[[Part, Gradients, Numbers], None]


def _sgd_numbers(part: Part) -> dict[str, float]:
    return {"rate": -part.group["lr"]}


def _sgd_(part: Part, gradients: Gradients, numbers: Numbers) -> None:
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
        _add_times_(part.parameters, momenta, numbers["rate"])


def skipping_sgd_(part: Part, gradients: Gradients, numbers: Numbers, skip: Tensor) -> None:
    """SGD or Nesterov's, where `settings.skip_problem` is none, by torch's fused kernel, once for each loss.

    Args:
        part, gradients, numbers: as of a rule.
        skip: a () tensor of 1 where everything is to stay as it is, else of 0, which only the kernel reads.
    """
    for place, (stream, found) in enumerate(gradients.items()):
        sgd(
            part.parameters,
            found,
            list(part.momenta[stream]),
            fused=True,
            found_inf=skip,
            weight_decay=part.group["weight_decay"] if place == 0 else 0.0,
            momentum=part.momentum(stream),
            lr=-numbers["rate"],
            dampening=0.0,
            nesterov=part.group["nesterov"],
            maximize=False,
        )


def _nesterov_numbers(part: Part) -> dict[str, float]:
    rate = -part.group["lr"]
    return {"rate": rate} | {f"ahead of {stream}": rate * part.momentum(stream) for stream in part.places}


def _nesterov_(part: Part, gradients: Gradients, numbers: Numbers) -> None:
    """v_s <- m_s v_s + g_s; p <- p - lr sum(g_s + m_s v_s). The decay joins the first stream's gradient.

    Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, in torch's form.
    """
    for stream, found in _decayed(part, gradients).items():
        torch._foreach_mul_(part.momenta[stream], part.momentum(stream))
        torch._foreach_add_(part.momenta[stream], found)
        _add_times_(part.parameters, found, numbers["rate"])
        _add_times_(part.parameters, part.momenta[stream], numbers[f"ahead of {stream}"])


def _rmsprop_(part: Part, gradients: Gradients, numbers: Numbers) -> None:
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
        _add_times_(part.parameters, part.momenta[stream], numbers["rate"])


def _rmsprop_tf_numbers(part: Part) -> dict[str, float]:
    return {"lr": part.group["lr"]}


def _rmsprop_tf_(part: Part, gradients: Gradients, numbers: Numbers) -> None:
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
        _add_quotients_(part.momenta[stream], found[stream], roots, numbers["lr"])
        torch._foreach_sub_(part.parameters, part.momenta[stream])


def _adamw_numbers(part: Part) -> dict[str, float]:
    group = part.group
    rates = {
        f"rate of {stream}": -group["lr"] * _gain(part, stream) / (1 - part.momentum(stream) ** (part.age(stream) + 1))
        for stream in part.places
    }
    return rates | {"shrinkage": 1 - group["lr"] * group["weight_decay"], "root": _root_of_bias(part)}


def _adamw_(part: Part, gradients: Gradients, numbers: Numbers) -> None:
    """v_s <- m_s v_s + (1 - m_s) g_s; q <- beta2 q + (1 - beta2) g^2; p <- (1 - lr decay) p - lr sum(n_s) / r.

    n_s = gain_s v_s / (1 - m_s^t), r = sqrt(q / (1 - beta2^t)) + eps; t is the age of each, 1 at its first step. Where
    the gradients of two losses all but cancel, q is small and a step can be many times lr: 59 were seen.
    """
    torch._foreach_mul_(part.parameters, numbers["shrinkage"])
    roots = _roots_of_second_moments(part, summed(gradients), numbers["root"])
    for stream, found in gradients.items():
        torch._foreach_lerp_(part.momenta[stream], found, 1 - part.momentum(stream))
        _add_quotients_(part.parameters, part.momenta[stream], roots, numbers[f"rate of {stream}"])


def _nadam_numbers(part: Part) -> dict[str, float]:
    numbers = {"root": _root_of_bias(part)}
    for stream in part.places:
        product, now, following = nadam_factors(part.momentum(stream), part.age(stream) + 1)
        rate = -part.group["lr"] * _gain(part, stream)
        numbers[f"now of {stream}"] = rate * (1 - now) / (1 - product)
        numbers[f"ahead of {stream}"] = rate * following / (1 - product * following)
    return numbers


def _nadam_(part: Part, gradients: Gradients, numbers: Numbers) -> None:
    """v_s, q and r as under AdamW; p <- p - lr sum(n_s) / r, where n_s looks ahead by a momentum mu_t that grows.

    n_s = gain_s (mu_(t+1) v_s / (1 - mu_1 ... mu_(t+1)) + (1 - mu_t) g_s / (1 - mu_1 ... mu_t)), where
    mu_t = m_s (1 - 0.96^(t psi) / 2), psi = 0.004. The decay joins the first stream's gradient, and so g.
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR 2016 workshop, as in torch's NAdam; differs from it where a
    scheduler changes the momentum within the first 60 steps: the products are those of the present one.
    """
    gradients = _decayed(part, gradients)
    roots = _roots_of_second_moments(part, summed(gradients), numbers["root"])
    for stream, found in gradients.items():
        torch._foreach_lerp_(part.momenta[stream], found, 1 - part.momentum(stream))
        _add_quotients_(part.parameters, found, roots, numbers[f"now of {stream}"])
        _add_quotients_(part.parameters, part.momenta[stream], roots, numbers[f"ahead of {stream}"])


def _lion_numbers(part: Part) -> dict[str, float]:
    group = part.group
    return {"shrinkage": 1 - group["lr"] * group["weight_decay"], "rate": -group["lr"]}


def _lion_(part: Part, gradients: Gradients, numbers: Numbers) -> None:
    """p <- (1 - lr decay) p - lr sign(sum(gain_s (m_s v_s + (1 - m_s) g_s))); v_s <- beta2 v_s + (1 - beta2) g_s.

    Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2, as in timm; m_s is its beta_1.
    """
    torch._foreach_mul_(part.parameters, numbers["shrinkage"])
    blends = {}
    for stream, found in gradients.items():
        blend = torch._foreach_lerp(part.momenta[stream], found, 1 - part.momentum(stream))
        blends[stream] = list(torch._foreach_mul(blend, _gain(part, stream)))
        torch._foreach_lerp_(part.momenta[stream], found, 1 - part.group["beta2"])
    _add_times_(part.parameters, torch._foreach_sign(summed(blends)), numbers["rate"])


RULES: dict[str, Rule] = {
    "sgd": Rule(_sgd_numbers, _sgd_),
    "adamw": Rule(_adamw_numbers, _adamw_),
    "rmsprop": Rule(_sgd_numbers, _rmsprop_),
    "rmsprop_tf": Rule(_rmsprop_tf_numbers, _rmsprop_tf_),
    "nadam": Rule(_nadam_numbers, _nadam_),
    "lion": Rule(_lion_numbers, _lion_),
}
_NESTEROV = Rule(_nesterov_numbers, _nesterov_)


def rule_of(part: Part) -> Rule:
    """The rule that moves these parameters, after their group's settings."""
    return _NESTEROV if part.group["nesterov"] else RULES[part.group["optimizer"]]


def _add_times_(targets: Tensors, values: Tensors, factor: Number) -> None:
    """targets += factor * values."""
    if isinstance(factor, Tensor):
        torch._foreach_add_(targets, torch._foreach_mul(values, factor))
    else:
        torch._foreach_add_(targets, values, alpha=factor)


def _add_quotients_(targets: Tensors, numerators: Tensors, denominators: Tensors, factor: Number) -> None:
    """targets += factor * numerators / denominators."""
    if isinstance(factor, Tensor):
        _add_times_(targets, torch._foreach_div(numerators, denominators), factor)
    else:
        torch._foreach_addcdiv_(targets, numerators, denominators, factor)


def _decayed(part: Part, gradients: Gradients) -> dict[str, list[Tensor]]:
    """The gradients, the decay of the parameters as they are now in that of the first stream."""
    found = dict(gradients)
    if part.group["weight_decay"] != 0:
        first = next(iter(found))
        found[first] = list(torch._foreach_add(found[first], part.parameters, alpha=part.group["weight_decay"]))
    return found


def _root_of_bias(part: Part) -> float:
    """What the root of the second moments is divided by, to correct for their age."""
    return float((1 - part.group["beta2"] ** (part.age_of_squares() + 1)) ** 0.5)


def _roots_of_second_moments(part: Part, total: list[Tensor], root_of_bias: Number) -> list[Tensor]:
    """The second moments take in a gradient; out come their roots, corrected for their age, plus eps."""
    group = part.group
    torch._foreach_mul_(part.squares, group["beta2"])
    torch._foreach_addcmul_(part.squares, total, total, 1 - group["beta2"])
    roots = torch._foreach_sqrt(part.squares)
    torch._foreach_div_(roots, root_of_bias)
    torch._foreach_add_(roots, group["eps"])
    return list(roots)


def _gain(part: Part, stream: str) -> float:
    """What a first moment that gains 1 for any momentum is weighed by."""
    if part.group["gain"] == "ema":
        return 1.0
    return float((1 - part.group["momentum"]) / (1 - part.momentum(stream)))


def nadam_factors(beta: float, age: int) -> tuple[float, float, float]:
    """mu_1 ... mu_t, mu_t and mu_(t+1) of NAdam at t = `age`."""

    def factor(step: int) -> float:
        return float(beta * (1 - 0.5 * 0.96 ** (step * MOMENTUM_DECAY)))

    product = 1.0
    for step in range(1, age + 1):
        product *= factor(step)
        if abs(product) < 1e-20:  # nothing beside the 1 that it is taken from
            break
    return product, factor(age), factor(age + 1)
