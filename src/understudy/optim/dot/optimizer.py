"""StreamOptimizer: a momentum of its own for each loss, as a torch.optim.Optimizer that is given losses."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from understudy.distributed.world import averaged
from understudy.optim.base import Update
from understudy.optim.dot import settings
from understudy.optim.dot.layout import Layout, have_others_joined, have_some_joined
from understudy.optim.dot.parts import Gradients, Streams
from understudy.optim.dot.reach import check_losses, gradients_of, leave_out, settle
from understudy.optim.dot.step_numbers import StepNumbers
from understudy.optim.scaler import step_unless_inf
from understudy.utils.errors import UserError

__all__ = ["StreamOptimizer"]


class StreamOptimizer(torch.optim.Optimizer, Update):
    """Base of DOT and its like: gathers each loss's gradient in a stream with its own momentum, and steps on all.

    A subclass says in `streams` which losses there are and what shifts their momenta, and has a `backward` that names
    them. What is promised of reach, accumulation, scaling, processes and compiled code, DOT's docstring says.

    Args:
        params: parameters or parameter groups.
        defaults: every setting of a group.
        clip_norm: longest summed gradient of a step, over all parameters together; all streams are scaled by the same.

    Raises:
        UserError: a setting out of its bounds, of a group's, too; momenta that do not go together.
    """

    streams: ClassVar[Streams]
    retains_graph: ClassVar[bool] = True

    gradients: dict[str, list[Tensor]]  # pending, by stream, in the order of `reached`: to replace, not to write into
    _layout: Layout | None  # None: memberships have changed since
    _scaler: torch.amp.GradScaler | None  # of the last backward
    _shown: object  # what that scaler has seen of this optimizer
    _has_warned = False
    _step_supports_amp_scaling = True  # torch's sign for "unscales its own gradients": scaler.step(self) calls step()

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any], *, clip_norm: float | None) -> None:
        settings.check_clip_norm(clip_norm)
        self.clip_norm = clip_norm
        self._numbers = StepNumbers()
        self.add_up: Callable[[Sequence[Tensor]], list[Tensor]] = averaged  # a run's own sums: its losses carry shares
        self._forget()
        super().__init__(params, defaults)

    def _backward(self, given: Mapping[str, Tensor | None], scaler: torch.amp.GradScaler | None) -> None:
        """Add each loss's gradient to its own stream, from one forward pass, which is freed.

        Args:
            given: by stream, scalars that already carry their weights; None where there is no such loss.
            scaler: scales the losses; `step` unscales, and steps only where all streams are finite.

        Raises:
            UserError: a loss without gradient or of several numbers, one that reaches none of the parameters, or one
                that comes through a reentrant checkpoint.
        """
        losses = {stream: loss for stream, loss in given.items() if loss is not None}
        check_losses(losses, self.param_groups, self.streams.owner)
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
            asked = ", ".join(f"{stream}=..." for stream in self.streams)
            raise UserError(f"{self.streams.owner} has no gradients to step on; call optimizer.backward({asked}) first")
        settings.check_at_step(self.param_groups, self.clip_norm, self.streams)
        if not self._has_warned:
            self._has_warned = settings.has_warned_of_unread_gradients(self.param_groups, self.streams)
        self._agree()
        reached = self._laid_out().reached
        # In the order of the streams: every process has to add up the same one at a time.
        added_up = {
            stream: self.add_up(self.gradients.get(stream) or self._laid_out().in_order(stream, (), ()))
            for stream in self.streams
            if reached[stream]
        }
        self.gradients = {}
        if self._scaler is None:
            self._update(added_up)
        else:
            skips_there = self._numbers.device is not None and self.skip_problem() is None
            self._shown = step_unless_inf(self._scaler, added_up, reached, self._update, on_device=skips_there)
        return value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop what `backward` has added up since the last step."""
        self.gradients = {}
        super().zero_grad(set_to_none)

    def reached(self, stream: str) -> list[Tensor]:
        """Parameters that the loss of that name reaches, in the order of `gradients`; none until settled."""
        return list(self._laid_out().reached.get(stream, ()))

    def _settle(self, reached: Mapping[str, Iterable[Tensor]]) -> None:
        """Have each loss reach these parameters and no others; drops what is pending."""
        settle(reached, self.param_groups, self.state)
        self._forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; which loss reaches the new parameters is found out at the next backward."""
        super().add_param_group(settings.completed(self.defaults | param_group, self.streams))
        self.param_groups[-1] |= settings.NOTHING_KNOWN
        self._forget()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave.

        Raises:
            UserError: it is another optimizer's; or its settings cannot be.
        """
        settings.check_state(state_dict, self.streams)
        super().load_state_dict(state_dict)

    @property
    def optimizer(self) -> StreamOptimizer:  # type: ignore[override]
        """Itself."""
        return self

    def capture_problem(self) -> str | None:
        """None: every rule takes its numbers from the device where it has to."""
        return None

    def skip_problem(self) -> str | None:
        """None of SGD, Nesterov's too, where no setting counts steps; those that are skipped count then."""
        return settings.skip_problem(self.param_groups, self.streams)

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
        leave_out(self._laid_out().dormant, self.state, self.streams)

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
            self._layout = Layout(self.param_groups, self.state, self.streams)
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

    def _update(self, gradients: Gradients, skip: Tensor | None = None) -> None:
        self._numbers.move_(self._laid_out().parts, gradients, clip_norm=self.clip_norm, skip=skip)
        self.count_replay()
