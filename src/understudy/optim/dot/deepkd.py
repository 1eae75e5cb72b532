"""DeepKD: a momentum of its own for the task loss and for both parts of the distillation loss."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from understudy.core.batch import Losses
from understudy.optim.base import Optimizer
from understudy.optim.dot.optimizer import StreamOptimizer
from understudy.optim.dot.parts import Streams
from understudy.optim.dot.settings import StreamSettings, check_momentum
from understudy.utils.errors import UserError

__all__ = ["DeepKD"]

# The target's comes first, which therefore carries the weight decay.
STREAMS = Streams(
    "DeepKD",
    {"target": ("delta_target", 1.0), "task": ("delta_task", 1.0), "non_target": ("delta_non_target", 1.0)},
)


class DeepKD(StreamOptimizer, name="deepkd"):
    """Three streams: the gradients of task, target and non-target loss each have as much memory as they deserve.

    Huang et al., "DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer", NeurIPS 2025: the momentum
    of a gradient should rise with its ratio of signal to noise, which they found lowest of the target class. Per
    parameter that several of the losses reach, s running over them,

        v_s <- (momentum + delta_s) v_s + g_s        (g_s + weight_decay * p, where s is the target loss)
        p   <- p - lr sum(v_s)

    A parameter that only one of the losses reaches keeps `momentum` itself, and where the target loss does not reach,
    the decay joins the task's gradient, or else the one there is. All else is as in DOT: who reaches what is found out,
    accumulation, GradScaler, several processes, `clip_norm`, and the rules of other optimizers
    (`understudy.optim.dot.update.DOT` says each). With all deltas 0 it is SGD on the sum.

    In use: `optimizer.backward(task=..., target=..., non_target=...)`, then `optimizer.step()`.

    Differs from the released code where that differs from the paper: there the task's momentum is that of the target,
    momentum - 0.075, so that delta_tog moves nothing but what a single loss reaches; `delta_task=-0.075` is what their
    numbers were made with. There the decay is of weights that the same step has already moved, here of those before it;
    it joins the target's gradient on both sides, of which the paper says nothing: beside the task's, whose memory is
    40 steps, it would be seven times as strong. What one or two losses reach has rules of its own there (the mean of
    the three momenta, no decay or a double one, one stream's momentum for another's gradient), which look unmeant.
    Their trajectories are followed once these are put back (golden deepkd).

    Args:
        params: parameters or parameter groups; each group may have its own value of every setting but `clip_norm`.
        delta_task, delta_target, delta_non_target: are added to the momentum of each stream; the paper's TOG, TCG and
            NCG. With DKD's losses the authors take 0.05 for the last.
        delta_warmup: steps over which the deltas rise from 0 in a straight line; 0, as in the paper: there at once.
        lr, momentum, weight_decay, optimizer, nesterov, dampening, clip_norm, beta2, alpha, eps, gain: as in DOT.
        allow_negative_momentum: lets momentum + delta fall below 0.

    Raises:
        UserError: a setting out of its bounds, of a group's, too; a momentum and a delta that do not go together.
    """

    class Config(StreamSettings):
        """DeepKD with SGD (the paper's), Nesterov's momentum, AdamW, NAdam, RMSprop or Lion."""

        delta_task: float = Field(default=0.075, validate_default=True)  # DeepKD's; the released code moves by -0.075
        delta_target: float = Field(default=-0.075, validate_default=True)  # DeepKD's, on CIFAR-100 and ImageNet
        delta_non_target: float = Field(default=0.075, validate_default=True)  # DeepKD's; 0.05 with DKD's losses

        @field_validator("delta_task", "delta_target", "delta_non_target")
        @classmethod
        def _goes_with_the_momentum(cls, delta: float, info: ValidationInfo) -> float:
            momentum, may_be_negative = info.data.get("momentum"), bool(info.data.get("allow_negative_momentum"))
            if momentum is not None:  # else that is a problem of its own
                check_momentum(STREAMS, str(info.field_name), delta, momentum, may_be_negative)
            return delta

        def momentum_in_words(self) -> str:
            """'momentum 0.9 (task +0.075, target -0.075, non-target +0.075)'."""
            deltas = {"task": self.delta_task, "target": self.delta_target, "non-target": self.delta_non_target}
            apart = ", ".join(f"{stream} {delta:+g}" for stream, delta in deltas.items())
            return f"{super().momentum_in_words()} ({apart}){self.rising_in_words()}"

        def length_note(self, num_steps: int) -> str | None:
            """Whether a run is so short that the longest memory hardly forgets within it."""
            deltas = (self.delta_task, self.delta_target, self.delta_non_target)
            return self.note_on_memory(num_steps, max(deltas), STREAMS.owner)

        def build(self, parameters: Iterable[tuple[str, nn.Parameter]], *, undecayed: Collection[str] = ()) -> DeepKD:
            """A DeepKD, which is an Update itself."""
            settings = self.model_dump(exclude={"name", "decay_norm_and_bias", "layer_decay"})
            return DeepKD(self.groups(parameters, undecayed), **settings)

    streams: ClassVar = STREAMS
    needs_distillation: ClassVar[bool] = True
    needs_streams: ClassVar[tuple[str, ...]] = ("target", "non_target")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.05,
        momentum: float = 0.9,
        delta_task: float = 0.075,
        delta_target: float = -0.075,
        delta_non_target: float = 0.075,
        weight_decay: float = 0.0,
        *,
        delta_warmup: int = 0,
        optimizer: Optimizer | Literal["nesterov"] = "sgd",
        nesterov: bool = False,
        dampening: float = 0.0,
        clip_norm: float | None = None,
        beta2: float | None = None,
        alpha: float | None = None,
        eps: float = 1e-8,
        gain: Literal["heavy_ball", "ema"] = "heavy_ball",
        allow_negative_momentum: bool = False,
    ) -> None:
        defaults: dict[str, Any] = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        defaults |= {"delta_task": delta_task, "delta_target": delta_target, "delta_non_target": delta_non_target}
        defaults |= {"optimizer": optimizer, "nesterov": nesterov, "dampening": dampening, "beta2": beta2}
        defaults |= {"delta_warmup": delta_warmup, "alpha": alpha, "eps": eps, "gain": gain}
        defaults["allow_negative_momentum"] = allow_negative_momentum
        super().__init__(params, defaults, clip_norm=clip_norm)

    def backward(
        self,
        *,
        task: Tensor | None = None,
        target: Tensor | None = None,
        non_target: Tensor | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """Add each loss's gradient to its own stream, from one forward pass, which is freed.

        Args:
            task, target, non_target: scalars that already carry their weights; None where there is no such loss.
            scaler: scales the losses; `step` unscales, and steps only where all streams are finite.

        Raises:
            UserError: a loss without gradient or of several numbers, one that reaches none of the parameters, or one
                that comes through a reentrant checkpoint.
        """
        self._backward({"task": task, "target": target, "non_target": non_target}, scaler)

    def settle(self, *, task: Iterable[Tensor], target: Iterable[Tensor], non_target: Iterable[Tensor]) -> None:
        """Say which parameters each loss reaches, instead of having it found out; drops what is pending.

        Raises:
            UserError: a parameter that is not this optimizer's.
        """
        self._settle({"task": task, "target": target, "non_target": non_target})

    def accumulate(self, losses: Losses, *, scaler: torch.amp.GradScaler | None = None) -> None:
        """`backward` of all three.

        Raises:
            UserError: the distillation loss is there, and not its parts.
        """
        if losses.distill is not None and not losses.parts:
            raise UserError(
                "DeepKD moves the weights by the target and the non-target part of the distillation loss apart; give "
                "Losses(..., parts={'target': ..., 'non_target': ...})"
            )
        self.backward(task=losses.task, **losses.parts, scaler=scaler)
