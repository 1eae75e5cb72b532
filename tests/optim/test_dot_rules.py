"""DOT with each optimizer that has a momentum, against its formula, and at delta 0 against the optimizer itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from timm.optim import Lion, RMSpropTF
from torch import nn

from understudy.optim import DOT

Floats = np.ndarray[Any, np.dtype[np.float64]]
LR, MOMENTUM, DELTA, DECAY, ALPHA, BETA2, EPS = 0.02, 0.6, 0.2, 0.1, 0.9, 0.95, 1e-3
NUM_STEPS = 8
START = np.linspace(-1, 1, 5)
READS = {
    "sgd": {},
    "nesterov": {},
    "adamw": {"beta2": BETA2, "eps": EPS},
    "nadam": {"beta2": BETA2, "eps": EPS},
    "rmsprop": {"alpha": ALPHA, "eps": EPS},
    "rmsprop_tf": {"alpha": ALPHA, "eps": EPS},
    "lion": {"beta2": BETA2},
}
GAINED = ("adamw", "nadam", "lion")


def gradients(step: int) -> tuple[Floats, Floats]:
    drawn = np.random.default_rng(step).normal(size=(2, 5))
    return drawn[0], drawn[1]


def walked(name: str, momenta: tuple[float, float], gains: tuple[float, float]) -> Iterator[Floats]:
    """Where the formulas of rules.py lead, step by step, for a parameter that both losses reach."""
    p, v, q = START.copy(), [np.zeros(5), np.zeros(5)], np.full(5, 1.0 if name == "rmsprop_tf" else 0.0)
    for t in range(1, NUM_STEPS + 1):
        g = list(gradients(t))
        if name in ("adamw", "lion"):
            p = p * (1 - LR * DECAY)
        else:
            g[0] = g[0] + DECAY * p
        total = g[0] + g[1]
        q = (ALPHA if "rmsprop" in name else BETA2) * q + (1 - (ALPHA if "rmsprop" in name else BETA2)) * total**2
        hat = np.sqrt(q / (1 - BETA2**t)) + EPS
        if name == "lion":
            blend = sum(k * (m * w + (1 - m) * x) for k, m, w, x in zip(gains, momenta, v, g, strict=True))
            v = [BETA2 * w + (1 - BETA2) * x for w, x in zip(v, g, strict=True)]
            p = p - LR * np.sign(blend)
        for s, m in enumerate(momenta if name != "lion" else ()):
            if name in ("sgd", "nesterov"):
                v[s] = m * v[s] + g[s]
                p = p - LR * (v[s] if name == "sgd" else g[s] + m * v[s])
            elif name == "rmsprop":
                v[s] = m * v[s] + g[s] / (np.sqrt(q) + EPS)
                p = p - LR * v[s]
            elif name == "rmsprop_tf":
                v[s] = m * v[s] + LR * g[s] / np.sqrt(q + EPS)
                p = p - v[s]
            elif name == "adamw":
                v[s] = m * v[s] + (1 - m) * g[s]
                p = p - LR * gains[s] * v[s] / (1 - m**t) / hat
            else:
                mu = [m * (1 - 0.5 * 0.96 ** (0.004 * i)) for i in range(1, t + 2)]
                v[s] = m * v[s] + (1 - m) * g[s]
                ahead = mu[-1] * v[s] / (1 - np.prod(mu)) + (1 - mu[-2]) * g[s] / (1 - np.prod(mu[:-1]))
                p = p - LR * gains[s] * ahead / hat
        yield p


def dot(name: str, parameter: nn.Parameter, **settings: Any) -> DOT:
    return DOT([parameter], lr=LR, momentum=MOMENTUM, weight_decay=DECAY, optimizer=name, **READS[name], **settings)


def stepped(optimizer: DOT, parameter: nn.Parameter, steps: range = range(1, NUM_STEPS + 1)) -> Iterator[Floats]:
    for step in steps:
        task, distill = (torch.from_numpy(found) for found in gradients(step))
        optimizer.backward(task=(parameter * task).sum(), distill=(parameter * distill).sum())
        optimizer.step()
        yield parameter.detach().numpy().copy()


def stepped_by_numbers_of_the_device(optimizer: DOT, parameter: nn.Parameter) -> Iterator[Floats]:
    optimizer.prepare_capture(torch.device("cpu"))
    for step in range(1, NUM_STEPS + 1):
        optimizer.begin_step()
        yield from stepped(optimizer, parameter, range(step, step + 1))


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(START.copy()))


@pytest.mark.parametrize("walk", [stepped, stepped_by_numbers_of_the_device])
@pytest.mark.parametrize("gain", ["heavy_ball", "ema"])
@pytest.mark.parametrize("name", READS)
def test_each_rule_follows_its_formula(
    name: str, gain: str, walk: Callable[[DOT, nn.Parameter], Iterator[Floats]]
) -> None:
    momenta = (MOMENTUM - DELTA, MOMENTUM + DELTA)
    gains = tuple((1 - MOMENTUM) / (1 - m) if gain == "heavy_ball" else 1.0 for m in momenta)
    moved = parameter()
    found = list(walk(dot(name, moved, delta=DELTA, gain=gain), moved))
    expected = list(walked(name, momenta, gains))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    if name not in GAINED:
        return
    others = list(walked(name, momenta, (1.0, 1.0) if gain == "heavy_ball" else (1.1, 0.9)))
    assert np.abs(np.subtract(others, expected)).max() > 1e-3


THEIRS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, LR, MOMENTUM, weight_decay=DECAY),
    "nesterov": lambda p: torch.optim.SGD(p, LR, MOMENTUM, weight_decay=DECAY, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, LR, (MOMENTUM, BETA2), EPS, DECAY),
    "nadam": lambda p: torch.optim.NAdam(p, LR, (MOMENTUM, BETA2), EPS, DECAY),
    "rmsprop": lambda p: torch.optim.RMSprop(p, LR, ALPHA, EPS, DECAY, MOMENTUM),
    "rmsprop_tf": lambda p: RMSpropTF(p, LR, ALPHA, EPS, DECAY, MOMENTUM),
    "lion": lambda p: Lion(p, LR, (MOMENTUM, BETA2), DECAY),
}


@pytest.mark.parametrize("name", READS)
def test_each_rule_is_the_optimizer_it_is_named_after_at_delta_zero(name: str) -> None:
    ours, theirs = parameter(), parameter()
    optimizer = THEIRS[name]([theirs])
    found = list(stepped(dot(name, ours, delta=0.0), ours))
    for step, place in enumerate(found, start=1):
        theirs.grad = torch.from_numpy(sum(gradients(step)))
        optimizer.step()
        # torch's NAdam keeps its product of momenta in float32.
        np.testing.assert_allclose(place, theirs.detach().numpy(), rtol=2e-6 if name == "nadam" else 1e-10, atol=1e-12)


@pytest.mark.parametrize("name", READS)
def test_a_parameter_that_one_loss_reaches_moves_as_under_the_optimizer_itself(name: str) -> None:
    ours, theirs = parameter(), parameter()
    optimizer, plain = dot(name, ours, delta=DELTA), THEIRS[name]([theirs])
    for step in range(1, NUM_STEPS + 1):
        gradient = torch.from_numpy(gradients(step)[0])
        optimizer.backward(distill=(ours * gradient).sum())
        optimizer.step()
        theirs.grad = gradient
        plain.step()
    np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=2e-6 if name == "nadam" else 1e-10, atol=1e-12)


@pytest.mark.parametrize("name", READS)
def test_each_rule_resumes_bit_for_bit(name: str) -> None:
    whole, resumed = parameter(), parameter()
    expected = list(stepped(dot(name, whole, delta=DELTA), whole))[-1]
    begun = dot(name, resumed, delta=DELTA)
    list(stepped(begun, resumed, range(1, 4)))
    continued = DOT([resumed])
    continued.load_state_dict(begun.state_dict())
    assert (list(stepped(continued, resumed, range(4, NUM_STEPS + 1)))[-1] == expected).all()


@pytest.mark.parametrize(("name", "setting", "value"), [("rmsprop", "alpha", 0.99), ("lion", "beta2", 0.99)])
def test_an_optimizer_with_a_default_of_its_own_has_it(name: str, setting: str, value: float) -> None:
    groups = [{"params": [parameter()]}, {"params": [parameter()], "optimizer": "adamw"}]
    first, second = DOT(groups, optimizer=name).param_groups
    assert (first[setting], second["beta2"], second["alpha"]) == (value, 0.999, 0.9)
