"""DOT: a momentum of its own for each loss, as a torch.optim.Optimizer that is given losses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any, Literal, cast

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from understudy.config import UserError
from understudy.step import Losses
from understudy.updates.base import UpdateConfig, initial_lr_of, scale_lr_
from understudy.updates.rules import (
    RULES,
    STREAMS,
    Part,
    check_momenta,
    checked_optimizer,
    momentum_key,
    parts_of,
    reached_by,
    summed,
)

__all__ = ["DOT", "reached_by"]


class DOT(torch.optim.Optimizer):
    """Distillation-oriented trainer: the distillation gradient gets more momentum than the task gradient.

    Zhao, Cui, Song, Liang, "DOT: A Distillation-Oriented Trainer", ICCV 2023, algorithm 1. Per parameter

        v_task    <- (momentum - delta) v_task    + g_task + weight_decay * p
        v_distill <- (momentum + delta) v_distill + g_distill
        p         <- p - lr (v_task + v_distill)

    A parameter that only one of the losses reaches (a connector; the classifier under a feature loss) keeps `momentum`
    itself, and the decay joins the gradient there is. Which loss reaches which parameter is settled when that loss is
    first seen, or by `settle`. A loss that is None later counts as zero.

    In use: `optimizer.backward(task=task_loss, distill=distill_loss)`, then `optimizer.step()`. Several backward calls
    before a step add up, each loss in its own stream. `parameter.grad` is neither read nor written, and `zero_grad`
    is not needed: it drops what has been added up. With a GradScaler: `backward(..., scaler=scaler)`,
    `scaler.step(optimizer)`, `scaler.update()`; both streams are unscaled, tested and, where need be, skipped together.
    Compiled models: call `settle` or an eager backward first (compiled code gives zeros for what a loss does not
    reach), and set `torch._functorch.config.donated_buffer = False`, since the first of two passes retains the graph.

    With `optimizer="adamw"` (the paper's footnote 3) `momentum` and delta make one beta_1 per stream, the second moment
    is that of the summed gradient, all moments are bias-corrected and the decay is decoupled. Adam's first moment
    gains 1 for any beta where heavy-ball momentum m gains 1 / (1 - m): `gain="heavy_ball"` restores the ratios by
    (1 - momentum) / (1 - momentum of the stream), `gain="ema"` leaves them out.

    Differs from the authors' code: a parameter that only the distill loss reaches is decayed from its first step on,
    theirs from the second (test_dot_rule.py has the numbers); parameter groups, accumulation and AMP.

    Args:
        params: parameters or parameter groups; each group may have its own value of every setting but `clip_norm`.
        delta: shifts momentum between the streams; the paper's 0.075 is for CIFAR-100, 0.09 for ImageNet. Negative:
            the task's is the longer memory.
        dampening: the gradient joins its momentum times 1 - dampening, except at the first step. SGD only.
        clip_norm: longest summed gradient of a step, over all parameters together; both streams are scaled by the same.
        beta2, eps, gain: AdamW only.
        allow_negative_momentum: lets momentum - |delta| fall below 0.

    Raises:
        UserError: momentum and delta that do not go together.
    """

    class Config(UpdateConfig):
        """DOT with SGD (the paper's) or AdamW."""

        only_with = UpdateConfig.only_with | {"dampening": ("sgd",), "gain": ("adamw",)}
        name: Literal["dot"] = "dot"
        allow_negative_momentum: bool = False
        delta: float = Field(default=0.075, validate_default=True)  # CIFAR-100; 0.09 for ImageNet
        dampening: float = Field(default=0.0, ge=0, lt=1)
        gain: Literal["heavy_ball", "ema"] = "heavy_ball"

        @field_validator("optimizer")
        @classmethod
        def _has_a_rule(cls, optimizer: str) -> str:
            return checked_optimizer(optimizer)

        @field_validator("delta")
        @classmethod
        def _goes_with_the_momentum(cls, delta: float, info: ValidationInfo) -> float:
            momentum = info.data.get("momentum")
            if momentum is not None:  # else that is a problem of its own
                check_momenta(momentum, delta, bool(info.data.get("allow_negative_momentum")))
            return delta

        def build(self, parameters: Iterable[tuple[str, nn.Parameter]], *, undecayed: Collection[str] = ()) -> DOT:
            """A DOT, which is an Update itself."""
            settings = self.model_dump(exclude={"name", "decay_norm_and_bias", "alpha"})
            return DOT(self.groups(parameters, undecayed), **settings)

    gradients: dict[str, list[Tensor]]  # pending, by stream, in the order of `reached`: to replace, not to write into
    _reached: dict[str, list[Tensor]]
    _parts: list[Part] | None  # None: `_arrange` has to build it anew
    _scaler: torch.amp.GradScaler | None  # of the last backward
    _step_supports_amp_scaling = True  # torch's sign for "unscales its own gradients": scaler.step(self) calls step()

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.05,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
        *,
        optimizer: Literal["sgd", "adamw"] = "sgd",
        dampening: float = 0.0,
        clip_norm: float | None = None,
        beta2: float = 0.999,
        eps: float = 1e-8,
        gain: Literal["heavy_ball", "ema"] = "heavy_ball",
        allow_negative_momentum: bool = False,
    ) -> None:
        self.clip_norm = clip_norm
        self.add_up: Callable[[Sequence[Tensor]], list[Tensor]] = list  # sums gradients over processes
        self._forget()
        settings: dict[str, Any] = {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay}
        settings |= {"optimizer": optimizer, "dampening": dampening, "beta2": beta2, "eps": eps, "gain": gain}
        super().__init__(params, settings | {"allow_negative_momentum": allow_negative_momentum})

    def backward(
        self, *, task: Tensor | None = None, distill: Tensor | None = None, scaler: torch.amp.GradScaler | None = None
    ) -> None:
        """Add each loss's gradient to its own stream, from one forward pass, which is freed.

        Args:
            task, distill: scalars that already carry their weights; None where there is no such loss.
            scaler: scales the losses; `step` unscales, and steps only where both streams are finite.

        Raises:
            UserError: a loss without gradient, or one that reaches none of the parameters.
        """
        given = {"task": task, "distill": distill}
        losses = {stream: loss for stream, loss in given.items() if loss is not None}
        self._discover(losses)
        self._scaler = scaler
        used = [stream for stream in losses if self._reached[stream]]
        for stream in used:
            loss = losses[stream] if scaler is None else scaler.scale(losses[stream])
            retains = stream != used[-1]
            found = torch.autograd.grad(loss, self._reached[stream], retain_graph=retains, materialize_grads=True)
            # Out of place throughout: autograd may hand out one tensor for two parameters, or an expanded one.
            pending = self.gradients.get(stream)
            self.gradients[stream] = list(found if pending is None else torch._foreach_add(pending, found))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the weights by what `backward` has added up, and start adding anew.

        Raises:
            UserError: there was no backward before.
        """
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        if not self.gradients:
            raise UserError("DOT has no gradients to step on; call optimizer.backward(task=..., distill=...) first")
        for stream, parameters in self._reached.items():
            if parameters and stream not in self.gradients:
                self.gradients[stream] = [torch.zeros_like(parameter) for parameter in parameters]
        self.gradients = {stream: self.add_up(found) for stream, found in self.gradients.items()}
        if self._scaler is None:
            self._update()
        else:
            self._update_unless_inf(self._scaler)
        self.gradients = {}
        return value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop what `backward` has added up since the last step."""
        self.gradients = {}
        super().zero_grad(set_to_none)

    def reached(self, stream: str) -> list[Tensor]:
        """Parameters that the "task" or "distill" loss reaches, in the order of `gradients`; none until settled."""
        if self._parts is None:
            self._arrange()
        return list(self._reached.get(stream, ()))

    def settle(self, *, task: Iterable[Tensor], distill: Iterable[Tensor]) -> None:
        """Say which parameters each loss reaches, instead of having it found out; drops what is pending.

        `reached_by` finds them from an eager forward. What a parameter has gathered for a loss that still reaches it
        stays.

        Raises:
            UserError: a parameter that is not this optimizer's.
        """
        mine = {parameter for group in self.param_groups for parameter in group["params"]}
        for stream, given in (("task", task), ("distill", distill)):
            members = set(given)
            if strangers := len(members - mine):
                raise UserError(
                    f"{strangers} of the parameters that the {stream} loss reaches are not this optimizer's"
                )
            for parameter in mine - members:
                self.state.get(parameter, {}).pop(momentum_key(stream), None)
            self._enter(stream, members)
        self._forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; which loss reaches the new parameters is found out at the next backward."""
        settings = self.defaults | param_group
        check_momenta(settings["momentum"], settings["delta"], settings["allow_negative_momentum"])
        checked_optimizer(settings["optimizer"])
        super().add_param_group(param_group)
        self.param_groups[-1]["steps"] = {}  # per loss that these parameters were shown to; what is absent is unsettled
        self._forget()

    def __call__(self, losses: Losses) -> None:
        """Both backward passes and one step: DOT is an `Update` itself."""
        self.accumulate(losses)
        self.step()

    def accumulate(self, losses: Losses, *, scaler: torch.amp.GradScaler | None = None) -> None:
        """`backward` of both losses."""
        self.backward(task=losses.task, distill=losses.distill, scaler=scaler)

    @property
    def lr(self) -> float:
        """Learning rate of the next step, of the first parameter group."""
        return float(self.param_groups[0]["lr"])

    @property
    def initial_lr(self) -> float:
        """Learning rate of the first parameter group where its factor is 1."""
        return initial_lr_of(self)

    def set_lr_factor(self, factor: float) -> None:
        """Scale every parameter group's learning rate to `factor` times its own initial one."""
        scale_lr_(self, factor)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"clip_norm": self.clip_norm, "add_up": self.add_up}

    def __setstate__(self, state: dict[str, Any]) -> None:  # of load_state_dict as well as of a copy
        super().__setstate__(state)
        self._forget()

    def _forget(self) -> None:
        """Drop what is pending and every list that a step works on; `_arrange` builds them anew."""
        self.gradients = {}
        self._reached = {}
        self._parts = None
        self._scaler = None

    def _discover(self, losses: Mapping[str, Tensor]) -> None:
        """Settle what is not settled yet: whom each of the losses reaches."""
        for stream, loss in losses.items():
            if not loss.requires_grad:
                raise UserError(f"the {stream} loss carries no gradient; pass None where there is no such loss")
            fresh = [group for group in self.param_groups if stream not in group["steps"]]
            if fresh:
                members = reached_by(loss, chain.from_iterable(group["params"] for group in fresh))
                if not members and len(fresh) == len(self.param_groups):
                    raise UserError(f"the {stream} loss reaches none of the parameters that DOT was given")
                self._enter(stream, members)
                self._parts = None
        if self._parts is None:
            self._arrange()

    def _enter(self, stream: str, members: Iterable[Tensor]) -> None:
        """Make the stream known, and give its members the momentum that marks them as such."""
        for group in self.param_groups:
            group["steps"] = {stream: 0} | group["steps"]
        for parameter in members:
            self.state[parameter].setdefault(momentum_key(stream), torch.zeros_like(parameter))

    def _arrange(self) -> None:
        """Bring the parameters of a group that the same losses reach together, and what is pending into their order."""
        pending = {s: dict(zip(self._reached[s], found, strict=True)) for s, found in self.gradients.items()}
        self._parts = parts_of(self.param_groups, self.state)
        self._reached = {
            stream: [parameter for part in self._parts if stream in part.places for parameter in part.parameters]
            for stream in STREAMS
        }
        self.gradients = {s: [found[p] for p in self._reached[s]] for s, found in pending.items()}

    def _update(self) -> None:
        assert self._parts is not None  # there are gradients, so backward has arranged them
        if self.clip_norm is not None:
            sums = [summed(part.cut(self.gradients)) for part in self._parts]
            norm = nn.utils.get_total_norm(chain.from_iterable(sums))
            factor = torch.clamp(self.clip_norm / (norm + 1e-6), max=1.0)
            self.gradients = {s: list(torch._foreach_mul(found, factor)) for s, found in self.gradients.items()}
        for part in self._parts:
            RULES[part.group["optimizer"]](part, part.cut(self.gradients))
        for group in self.param_groups:
            group["steps"] = {stream: count + 1 for stream, count in group["steps"].items()}

    def _update_unless_inf(self, scaler: torch.amp.GradScaler) -> None:
        """Have the scaler unscale, test and step by showing it all streams as one optimizer with `.grad`s."""
        holders: list[Tensor] = []
        for stream, found in self.gradients.items():
            shown = [parameter.detach() for parameter in self._reached[stream]]
            for holder, gradient in zip(shown, found, strict=True):
                holder.grad = gradient.clone()  # it unscales in place
            self.gradients[stream] = [cast(Tensor, holder.grad) for holder in shown]
            holders += shown
        # The scaler remembers optimizers by id() until its update(), so this one has to live on.
        self._shown = SimpleNamespace(param_groups=[{"params": holders}], step=self._update)
        scaler.step(cast(Any, self._shown))
        self._shown.param_groups = []
