"""Layout: an optimizer's parameters in the lists that a step works on, and when these are out of date."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import compress

import torch
from torch import Tensor

from understudy.optim.dot.parts import Streams, momentum_key, parts_of
from understudy.optim.dot.reach import Groups, State, enter, joining, open_to, refuse_without_reach

__all__ = ["Layout", "have_others_joined", "have_some_joined"]


class Layout:
    """Who is reached by what, as the optimizer's state has it now; whoever changes that needs a new one.

    Attributes:
        parameters: all of them, P, in the order of the groups.
        parts: the trainable ones that a loss reaches, as a step works on them.
        reached: the same by stream; a stream's gradients are in this order.
        open: by stream, those of which it may turn out that it reaches them, too.
        dormant: those that were reached before they were frozen.
        streams: the losses that are kept apart.
    """

    def __init__(self, groups: Groups, state: State, streams: Streams) -> None:
        self.streams = streams
        self.parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        self.parts = parts_of(groups, state, streams)
        self.reached = {
            stream: [parameter for part in self.parts if stream in part.places for parameter in part.parameters]
            for stream in streams
        }
        self.open = {stream: open_to(stream, groups, state) for stream in streams}
        self.dormant = [p for p in self.parameters if not p.requires_grad and state.get(p)]
        self._trainable = [parameter.requires_grad for parameter in self.parameters]
        self._state = state

    def holds(self) -> bool:
        """Whether the same parameters are trainable as when this was made."""
        return self._trainable == [parameter.requires_grad for parameter in self.parameters]

    def momenta(self) -> tuple[tuple[float, bool], ...]:
        """Of every part and stream: its momentum at this step, and whether this is the first that moves it."""
        return tuple((part.momentum(stream), part.age(stream) == 0) for part in self.parts for stream in part.places)

    def in_order(self, stream: str, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> list[Tensor]:
        """A gradient for each parameter that the stream reaches, zeros where these parameters have none."""
        mine = self.reached[stream]
        # As a rule they are in order by now; to look each up by its hash would cost more than all else here.
        if len(parameters) < len(mine) or any(one is not other for one, other in zip(mine, parameters, strict=False)):
            found = dict(zip(parameters, gradients, strict=True))
            gradients = [found.get(parameter) for parameter in mine]
        pairs = zip(mine, gradients, strict=False)
        return [torch.zeros_like(parameter) if gradient is None else gradient for parameter, gradient in pairs]

    @cached_property
    def members(self) -> Tensor:
        """(P, streams) on the CPU: 1 where a stream reaches a parameter, else 0; what several processes compare."""
        known = [[momentum_key(stream) in self._state.get(p, {}) for stream in self.streams] for p in self.parameters]
        return torch.tensor(known, dtype=torch.float32)


def have_some_joined(
    layout: Layout,
    losses: Mapping[str, Tensor],
    gradients: Mapping[str, Sequence[Tensor | None]],
    groups: Groups,
    state: State,
) -> bool:
    """Make members of the open parameters that have a gradient; whether the layout is out of date by that.

    Args:
        layout: tells which are open.
        losses: by stream.
        gradients: by stream, of the reached and then of the open parameters.
        groups, state: the optimizer's.

    Raises:
        UserError: a loss that has never reached any of the parameters.
    """
    refuse_without_reach(gradients, groups, layout.streams.owner)
    members = {}
    for stream, found in gradients.items():  # of all streams before any is entered: that changes who is nobody's
        pairs = zip(layout.open[stream], found[len(layout.reached[stream]) :], strict=True)
        late = {parameter: gradient for parameter, gradient in pairs if gradient is not None}
        members[stream] = joining(stream, losses[stream], late, groups, state)
    have_joined = False
    for stream, joined in members.items():
        is_new = any(stream not in group["steps"] for group in groups)
        if joined or (is_new and any(momentum_key(stream) in known for known in state.values())):
            enter(stream, set(joined), groups, state)
            have_joined = True
    return have_joined


def have_others_joined(
    layout: Layout, add_up: Callable[[Sequence[Tensor]], list[Tensor]], groups: Groups, state: State
) -> bool:
    """Make members of what the losses of other processes reach; whether there are any."""
    (everywhere,) = add_up([layout.members])
    if everywhere is layout.members:  # what a lone process gets back
        return False
    have_joined = False
    for column, stream in enumerate(layout.streams):
        is_member, is_known = everywhere[:, column] > 0, layout.members[:, column] > 0
        is_new = any(stream not in group["steps"] for group in groups)
        if (is_member & ~is_known).any() or (is_new and is_member.any()):
            enter(stream, set(compress(layout.parameters, is_member.tolist())), groups, state)
            have_joined = True
    return have_joined
