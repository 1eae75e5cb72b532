"""DOT: a momentum of its own for the task loss and for the distillation loss."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from understudy.core.batch import Losses
from understudy.optim.base import Optimizer
from understudy.optim.dot.optimizer import StreamOptimizer
from understudy.optim.dot.reach import reached_by
from understudy.optim.dot.settings import DOT_STREAMS, DOTSettings

__all__ = ["DOT", "reached_by"]


class DOT(StreamOptimizer, name="dot"):
    """Distillation-oriented trainer: the distillation gradient gets more momentum than the task gradient.

    Zhao, Cui, Song, Liang, "DOT: A Distillation-Oriented Trainer", ICCV 2023, algorithm 1. Per parameter

        v_task    <- (momentum - delta) v_task    + g_task + weight_decay * p
        v_distill <- (momentum + delta) v_distill + g_distill
        p         <- p - lr (v_task + v_distill)

    A parameter that only one of the losses reaches (a connector; the classifier under a feature loss) keeps `momentum`
    itself, and the decay joins the gradient there is. Which loss reaches which parameter is found out as it happens, or
    said by `settle`: what is skipped or frozen at first joins with its first gradient, and what is frozen later stays
    put. A loss that is None, or leaves out what it has reached before, counts as zero there.

    In use: `optimizer.backward(task=task_loss, distill=distill_loss)`, then `optimizer.step()`. Several backward calls
    before a step add up, each loss in its own stream. `parameter.grad` is neither read nor written: `zero_grad` is not
    needed (it drops what has been added up), and `clip_grad_norm_` does nothing, `clip_norm` clips. With a GradScaler:
    `backward(..., scaler=scaler)`, `scaler.step(optimizer)`, `scaler.update()`; both streams are unscaled, tested and,
    where need be, skipped together. In several processes of torch.distributed: means over them, as under
    DistributedDataParallel, whether it wraps the network or not (docs/distributed.md). Compiled models: set
    `torch._functorch.config.donated_buffer = False`, since the first of two passes retains the graph. Compiled code
    gives zeros for what a loss does not reach; `settle`, or an eager backward first, spares looking for them.

    The paper's footnote 3 has DOT with every optimizer that has a momentum: `optimizer` and `nesterov` choose the rule
    (rules.py has the formulas). What an optimizer has beside the momenta is of the summed gradient, and there is one of
    it: second moments of AdamW, NAdam and RMSprop, Lion's sign. Under AdamW, NAdam and Lion `momentum` and delta make
    one beta_1 per stream. A first moment there gains 1 for any beta where heavy-ball momentum m gains 1 / (1 - m):
    `gain="heavy_ball"` restores the ratios by (1 - momentum) / (1 - momentum of the stream), `gain="ema"` leaves them
    out.

    Differs from the authors' code: a parameter that only the distill loss reaches is decayed from its first step on,
    theirs from the second (test_dot_rule.py has the numbers); parameter groups, accumulation and AMP.

    Args:
        params: parameters or parameter groups; each group may have its own value of every setting but `clip_norm`.
        delta: shifts momentum between the streams; the paper's 0.075 is for CIFAR-100, 0.09 for ImageNet. Negative:
            the task's is the longer memory.
        delta_warmup: steps over which delta rises from 0 in a straight line; 0, as in the paper: it is there at once.
        optimizer: "sgd", "adamw", "nadam", "rmsprop" (torch's), "rmsprop_tf" (TensorFlow's, timm's) or "lion";
            "nesterov" is short for sgd with `nesterov=True`. The decay is decoupled under AdamW and Lion.
        dampening: the gradient joins its momentum times 1 - dampening, except at the first step. Plain SGD only.
        clip_norm: longest summed gradient of a step, over all parameters together; both streams are scaled by the same.
        beta2: AdamW, NAdam, and Lion; None: 0.999, Lion's 0.99.
        alpha: memory of squared gradients, both kinds of RMSprop; None: 0.99 of torch's, 0.9 of TensorFlow's.
        eps: AdamW, NAdam, RMSprop; under the root in TensorFlow's.
        gain: AdamW, NAdam, Lion.
        allow_negative_momentum: lets momentum - |delta| fall below 0.

    Raises:
        UserError: a setting out of its bounds, of a group's, too; momentum and delta that do not go together. What a
            scheduler makes of them is looked at in every step.
    """

    class Config(DOTSettings):
        """DOT with SGD (the paper's), Nesterov's momentum, AdamW, NAdam, RMSprop (torch's or TensorFlow's) or Lion."""

        def build(self, parameters: Iterable[tuple[str, nn.Parameter]], *, undecayed: Collection[str] = ()) -> DOT:
            """A DOT, which is an Update itself."""
            settings = self.model_dump(exclude={"name", "decay_norm_and_bias", "layer_decay"})
            return DOT(self.groups(parameters, undecayed), **settings)

    streams: ClassVar = DOT_STREAMS
    needs_distillation: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.05,
        momentum: float = 0.9,
        delta: float = 0.075,
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
        defaults: dict[str, Any] = {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay}
        defaults |= {"optimizer": optimizer, "nesterov": nesterov, "dampening": dampening, "beta2": beta2}
        defaults |= {"delta_warmup": delta_warmup, "alpha": alpha, "eps": eps, "gain": gain}
        defaults["allow_negative_momentum"] = allow_negative_momentum
        super().__init__(params, defaults, clip_norm=clip_norm)

    def backward(
        self, *, task: Tensor | None = None, distill: Tensor | None = None, scaler: torch.amp.GradScaler | None = None
    ) -> None:
        """Add each loss's gradient to its own stream, from one forward pass, which is freed.

        Args:
            task, distill: scalars that already carry their weights; None where there is no such loss.
            scaler: scales the losses; `step` unscales, and steps only where both streams are finite.

        Raises:
            UserError: a loss without gradient or of several numbers, one that reaches none of the parameters, or one
                that comes through a reentrant checkpoint.
        """
        self._backward({"task": task, "distill": distill}, scaler)

    def settle(self, *, task: Iterable[Tensor], distill: Iterable[Tensor]) -> None:
        """Say which parameters each loss reaches, instead of having it found out; drops what is pending.

        `reached_by` finds them from an eager forward. What a parameter has gathered for a loss that still reaches it
        stays.

        Raises:
            UserError: a parameter that is not this optimizer's.
        """
        self._settle({"task": task, "distill": distill})

    def accumulate(self, losses: Losses, *, scaler: torch.amp.GradScaler | None = None) -> None:
        """`backward` of both losses."""
        self.backward(task=losses.task, distill=losses.distill, scaler=scaler)
