"""NAdam, RMSprop and Lion for steps that a captured graph replays: what they count in Python is read from the device.

torch and timm work out corrections for age, and the learning rate, as Python goes through a step. Here the optimizer
keeps its parameters, its settings and its state under their own names, and its arithmetic is DOT's of a single loss
(`understudy.optim.dot.rules`), which is the same but for the order in which some numbers are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim.lion import Lion
from timm.optim.rmsprop_tf import RMSpropTF
from torch import Tensor

from understudy.optim.dot.parts import FIRST_SQUARES, SQUARES, Part, Streams
from understudy.optim.dot.rules import MOMENTUM_DECAY, nadam_factors, rule_of
from understudy.optim.dot.step_numbers import StepNumbers

__all__ = ["AGES", "DeviceSteps", "rule_problem"]

STREAM = "task"  # by which the only loss goes here
STREAMS = Streams("joint", {STREAM: ("delta", 0.0)})
AGES = "ages"  # of a group: how many steps each of its parameters has taken; not in a checkpoint


@dataclass(frozen=True, slots=True)
class _Names:
    """What an optimizer is called among the rules, and what it calls its state.

    Attributes:
        rule: of DOT's.
        momentum, squares: in the state of a parameter; None: there are no squares.
        counts: numbers of a parameter that are kept there as () tensors of the CPU, too.
        settings: that the rule has for granted, by name in the groups.
    """

    rule: str
    momentum: str
    squares: str | None
    counts: tuple[str, ...]
    settings: Mapping[str, object]


_NAMES: dict[type[torch.optim.Optimizer], _Names] = {
    torch.optim.NAdam: _Names(
        "nadam",
        "exp_avg",
        "exp_avg_sq",
        ("step", "mu_product"),
        {"momentum_decay": MOMENTUM_DECAY, "decoupled_weight_decay": False, "maximize": False},
    ),
    torch.optim.RMSprop: _Names(
        "rmsprop", "momentum_buffer", "square_avg", ("step",), {"centered": False, "maximize": False}
    ),
    RMSpropTF: _Names(
        "rmsprop_tf",
        "momentum_buffer",
        "square_avg",
        ("step",),
        {"centered": False, "decoupled_decay": False, "lr_in_momentum": True, "caution": False},
    ),
    Lion: _Names("lion", "exp_avg", None, (), {"caution": False, "maximize": False, "corrected_weight_decay": False}),
}


def rule_problem(optimizer: torch.optim.Optimizer) -> str | None:
    """Why there is no rule that takes this optimizer's steps; None: there is one."""
    names = _NAMES.get(type(optimizer))
    if names is None:
        return f"{type(optimizer).__name__} keeps numbers of the step in Python"
    for group in optimizer.param_groups:
        for setting, value in names.settings.items():
            if group.get(setting, value) != value:
                return f"{type(optimizer).__name__} with {setting}={group[setting]} keeps numbers of the step in Python"
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Share:
    """Parameters of a group that have taken equally many steps."""

    group: dict[str, Any]  # the optimizer's
    places: list[int]  # of the parameters among its own
    part: Part

    def refresh(self) -> Part:
        """The part, which knows the rate and the age of now."""
        self.part.group["lr"] = float(self.group["lr"])
        self.part.group["steps"] = {STREAM: self.group[AGES][self.places[0]]}
        return self.part


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Who has a gradient, and the lists that a step works on."""

    reached: list[list[int]]
    shares: list[_Share]


class DeviceSteps:
    """Takes an optimizer's steps by numbers on the device; to a GradScaler it is that optimizer.

    Args:
        optimizer: of which `rule_problem` says nothing; its state is as its own steps would have it, but for the
            counts, which `write_counts` brings up to date.
        device: of the parameters.

    Attributes:
        param_groups: the optimizer's, with the ages of their parameters beside the settings.
        layout: of the last step; a recording holds for this one alone.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.param_groups = optimizer.param_groups
        self.layout: Layout | None = None
        self._state: Mapping[Tensor, dict[str, Any]] = optimizer.state
        self._names = _NAMES[type(optimizer)]
        self._numbers = StepNumbers(device)
        for group in self.param_groups:
            group[AGES] = tuple(int(self._state.get(p, {}).get("step", 0)) for p in group["params"])

    def begin_step(self) -> None:
        """Give the numbers on the device their values for the step to come, whose learning rate is set."""
        if self.layout is not None:
            self._numbers.set([share.refresh() for share in self.layout.shares])

    @torch.no_grad()
    def step(self) -> None:
        """Change the weights of all parameters that have a gradient."""
        reached = [
            [place for place, parameter in enumerate(group["params"]) if parameter.grad is not None]
            for group in self.param_groups
        ]
        if self.layout is None or self.layout.reached != reached:
            self.layout = self._laid_out(reached)
            self._numbers.forget()
        for share in self.layout.shares:
            gradients = {STREAM: [parameter.grad for parameter in share.part.parameters]}
            numbers = self._numbers.of(share.part)
            rule_of(share.part).move_(share.part, gradients, numbers)  # type: ignore[arg-type]
        self.count()

    def count(self) -> None:
        """Count a step of those that had a gradient in the last one."""
        if self.layout is None:
            return
        for group, reached in zip(self.param_groups, self.layout.reached, strict=True):
            ages = list(group[AGES])
            for place in reached:
                ages[place] += 1
            group[AGES] = tuple(ages)

    def write_counts(self) -> None:
        """Bring up to date what the optimizer's state has of numbers."""
        for group in self.param_groups:
            for parameter, age in zip(group["params"], group[AGES], strict=True):
                known = self._state.get(parameter, {})
                if "step" in known:
                    known["step"] = torch.tensor(float(age))
                if "mu_product" in known:
                    known["mu_product"] = torch.tensor(nadam_factors(group["betas"][0], age)[0] if age else 1.0)

    def _laid_out(self, reached: Sequence[Sequence[int]]) -> Layout:
        shares = []
        for group, places in zip(self.param_groups, reached, strict=True):
            alike: dict[int, list[int]] = {}
            for place in places:
                alike.setdefault(group[AGES][place], []).append(place)
            shares += [_Share(group, those, self._part(group, those)) for those in alike.values()]
        for share in shares:
            share.refresh()
        return Layout([list(places) for places in reached], shares)

    def _part(self, group: dict[str, Any], places: list[int]) -> Part:
        """These parameters as a rule of DOT's has them; their state is begun here where there is none."""
        parameters: list[Tensor] = [group["params"][place] for place in places]
        momentum, beta2 = group["betas"] if "betas" in group else (group["momentum"], None)
        settings = {"optimizer": self._names.rule, "momentum": momentum, "beta2": beta2, "alpha": group.get("alpha")}
        settings |= {"eps": group.get("eps"), "weight_decay": group["weight_decay"], "nesterov": False}
        settings |= {"delta": 0.0, "delta_warmup": 0, "gain": "ema"}
        momenta, squares = [], []
        keeps_momentum = momentum > 0 or "betas" in group
        for parameter in parameters:
            known = self._begun(parameter, keeps_momentum=keeps_momentum)
            momenta.append(known[self._names.momentum] if keeps_momentum else torch.zeros_like(parameter))
            squares += [] if self._names.squares is None else [known[self._names.squares]]
        everywhere = {STREAM: slice(0, len(parameters))}
        return Part(settings, parameters, everywhere, {STREAM: momenta}, squares, {STREAM: 0, SQUARES: 0}, STREAMS)

    def _begun(self, parameter: Tensor, *, keeps_momentum: bool) -> dict[str, Any]:
        """The parameter's state; RMSprop without momentum keeps none, and works on one that it has anew."""
        known = self._state[parameter]  # torch's is a defaultdict
        if not known:
            known.update({name: torch.tensor(float(name == "mu_product")) for name in self._names.counts})
            if keeps_momentum:
                known[self._names.momentum] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            if self._names.squares is not None:
                first = FIRST_SQUARES[self._names.rule]
                known[self._names.squares] = torch.full_like(parameter, first, memory_format=torch.preserve_format)
        return known
