"""DOT: a momentum of its own for each loss, as a torch.optim.Optimizer that is given losses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from understudy.core.batch import Losses
from understudy.distributed.world import averaged
from understudy.optim.base import Optimizer, Update
from understudy.optim.dot import settings
from understudy.optim.dot.layout import Layout, have_others_joined, have_some_joined
from understudy.optim.dot.parts import STREAMS, Gradients, clipped
from understudy.optim.dot.reach import check_losses, gradients_of, leave_out, reached_by, settle
from understudy.optim.dot.rules import rule_of
from understudy.optim.dot.settings import DOTSettings
from understudy.optim.dot.step_numbers import StepNumbers
from understudy.optim.scaler import step_unless_inf
from understudy.utils.errors import UserError

__all__ = ["DOT", "reached_by"]


class DOT(torch.optim.Optimizer, Update, name="dot"):
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

    retains_graph: ClassVar[bool] = True
    needs_distillation: ClassVar[bool] = True

    gradients: dict[str, list[Tensor]]  # pending, by stream, in the order of `reached`: to replace, not to write into
    _layout: Layout | None  # None: memberships have changed since
    _scaler: torch.amp.GradScaler | None  # of the last backward
    _shown: object  # what that scaler has seen of this optimizer
    _has_warned = False
    _step_supports_amp_scaling = True  # torch's sign for "unscales its own gradients": scaler.step(self) calls step()

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
        settings.check_clip_norm(clip_norm)
        self.clip_norm = clip_norm
        self._numbers = StepNumbers()
        self.add_up: Callable[[Sequence[Tensor]], list[Tensor]] = averaged  # a run's own sums: its losses carry shares
        self._forget()
        defaults: dict[str, Any] = {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay}
        defaults |= {"optimizer": optimizer, "nesterov": nesterov, "dampening": dampening, "beta2": beta2}
        defaults |= {"delta_warmup": delta_warmup, "alpha": alpha, "eps": eps, "gain": gain}
        defaults["allow_negative_momentum"] = allow_negative_momentum
        super().__init__(params, defaults)

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
        losses = {stream: loss for stream, loss in (("task", task), ("distill", distill)) if loss is not None}
        check_losses(losses, self.param_groups)
        if not self._laid_out().holds():
            self._lay_out_anew()
            self._is_agreed = False
        self._scaler = scaler
        layout = self._laid_out()
        asked = {stream: layout.reached[stream] + layout.open[stream] for stream in losses}
        found = gradients_of(losses, asked, scaler)
        if have_some_joined(layout, losses, found, self.param_groups, self.state):
            self._lay_out_anew()
        for stream, gradients in found.items():
            mine = self._laid_out().in_order(stream, asked[stream], gradients)
            # Out of place throughout: autograd may hand out one tensor for two parameters, or an expanded one.
            pending = self.gradients.get(stream)
            self.gradients[stream] = list(torch._foreach_add(pending, mine)) if pending else mine

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the weights by what `backward` has added up, and start adding anew.

        Raises:
            UserError: there was no backward before; or settings that a scheduler has made of the groups cannot be.
        """
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        if not self.gradients:
            raise UserError("DOT has no gradients to step on; call optimizer.backward(task=..., distill=...) first")
        settings.check_at_step(self.param_groups, self.clip_norm)
        self._has_warned = self._has_warned or settings.has_warned_of_unread_gradients(self.param_groups)
        self._agree()
        reached = self._laid_out().reached
        # In the order of the streams: every process has to add up the same one at a time.
        added_up = {
            stream: self.add_up(self.gradients.get(stream) or self._laid_out().in_order(stream, (), ()))
            for stream in STREAMS
            if reached[stream]
        }
        self.gradients = {}
        if self._scaler is None:
            self._update(added_up)
        else:
            self._shown = step_unless_inf(self._scaler, added_up, reached, self._update)
        return value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop what `backward` has added up since the last step."""
        self.gradients = {}
        super().zero_grad(set_to_none)

    def reached(self, stream: str) -> list[Tensor]:
        """Parameters that the "task" or "distill" loss reaches, in the order of `gradients`; none until settled."""
        return list(self._laid_out().reached.get(stream, ()))

    def settle(self, *, task: Iterable[Tensor], distill: Iterable[Tensor]) -> None:
        """Say which parameters each loss reaches, instead of having it found out; drops what is pending.

        `reached_by` finds them from an eager forward. What a parameter has gathered for a loss that still reaches it
        stays.

        Raises:
            UserError: a parameter that is not this optimizer's.
        """
        settle({"task": task, "distill": distill}, self.param_groups, self.state)
        self._forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; which loss reaches the new parameters is found out at the next backward."""
        super().add_param_group(settings.completed(self.defaults | param_group))
        self.param_groups[-1] |= settings.NOTHING_KNOWN
        self._forget()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave.

        Raises:
            UserError: it is another optimizer's; or its settings cannot be.
        """
        settings.check_state(state_dict)
        super().load_state_dict(state_dict)

    def accumulate(self, losses: Losses, *, scaler: torch.amp.GradScaler | None = None) -> None:
        """`backward` of both losses."""
        self.backward(task=losses.task, distill=losses.distill, scaler=scaler)

    @property
    def optimizer(self) -> DOT:  # type: ignore[override]
        """Itself."""
        return self

    def capture_problem(self) -> str | None:
        """None: every rule takes its numbers from the device where it has to."""
        return None

    def prepare_capture(self, device: torch.device) -> None:
        """Keep what the rules work out anew at each step there."""
        self._numbers = StepNumbers(device)

    def begin_step(self) -> None:
        """Give the numbers on the device their values for the step to come."""
        self._numbers.set(self._laid_out().parts)

    def baked_in(self) -> Hashable:
        """Settings of the groups but for the rate, who is trainable, and the lists that a step works on."""
        layout = self._laid_out()
        return settings.fixed_settings(self.param_groups), self.clip_norm, layout, layout.holds(), layout.momenta()

    def count_replay(self) -> None:
        """Count a step."""
        for group in self.param_groups:
            group["steps"] = {stream: count + 1 for stream, count in group["steps"].items()}
        leave_out(self._laid_out().dormant, self.state)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"clip_norm": self.clip_norm, "add_up": self.add_up}

    def __setstate__(self, state: dict[str, Any]) -> None:  # of load_state_dict as well as of a copy
        super().__setstate__(state)
        self.__dict__.setdefault("_numbers", StepNumbers())
        for group in self.param_groups:
            for name, value in (settings.NOTHING_KNOWN | settings.ABSENT_BEFORE).items():
                group.setdefault(name, value)
        self._forget()

    def _forget(self) -> None:
        """Drop what is pending and the lists that a step works on."""
        self.gradients = {}
        self._layout = None
        self._numbers.forget()
        self._is_agreed = False  # whether all processes know the same members, and nothing is open
        self._scaler = self._shown = None

    def _laid_out(self) -> Layout:
        if self._layout is None:
            self._layout = Layout(self.param_groups, self.state)
        return self._layout

    def _lay_out_anew(self) -> None:
        """Lay the parameters out as they are reached now, and what is pending in the same order."""
        before, self._layout = self._laid_out().reached, None
        self._numbers.forget()
        self.gradients = {s: self._laid_out().in_order(s, before[s], found) for s, found in self.gradients.items()}

    def _agree(self) -> None:
        """Have all processes know the same members; once nothing is open, there is nothing to exchange."""
        if not self._is_agreed:
            if have_others_joined(self._laid_out(), self.add_up, self.param_groups, self.state):
                self._lay_out_anew()
            self._is_agreed = not any(self._laid_out().open.values())

    def _update(self, gradients: Gradients) -> None:
        layout = self._laid_out()
        if self.clip_norm is not None:
            gradients = clipped(gradients, layout.parts, self.clip_norm)
        for part in layout.parts:
            rule_of(part).move_(part, part.cut(gradients), self._numbers.of(part))
        self.count_replay()
