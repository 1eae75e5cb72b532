"""Reach: which parameters each loss leads to, and how an optimizer keeps that in mind."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from understudy.optim.dot.parts import SQUARES, Streams, joined_key, momentum_key
from understudy.utils.errors import UserError

__all__ = [
    "Groups",
    "State",
    "check_losses",
    "enter",
    "gradients_of",
    "is_of_compiled_code",
    "joining",
    "leave_out",
    "open_to",
    "reached_by",
    "refuse_without_reach",
    "settle",
]

Groups = Sequence[dict[str, Any]]  # an optimizer's param_groups
State = Mapping[Tensor, dict[str, Any]]  # an optimizer's state, by parameter


def reached_by(loss: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    """Those of the parameters that the loss's graph leads to; the graph is kept, frozen parameters are left out.

    Of a loss out of compiled code, which gives zeros for what it does not reach: those whose gradient is not all zero.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        return []
    gradients = torch.autograd.grad(loss, trainable, retain_graph=True, allow_unused=True)
    found = {p: gradient for p, gradient in zip(trainable, gradients, strict=True) if gradient is not None}
    return _not_all_zero(found) if is_of_compiled_code(loss) else list(found)


def gradients_of(
    losses: Mapping[str, Tensor], asked: Mapping[str, Sequence[Tensor]], scaler: torch.amp.GradScaler | None
) -> dict[str, tuple[Tensor | None, ...]]:
    """Each loss's gradients of the parameters asked for, out of one graph, which is freed; None where there is none.

    Args:
        losses: scalars, by stream.
        asked: parameters, by stream; a stream without any is left out.
        scaler: scales the losses.
    """
    found: dict[str, tuple[Tensor | None, ...]] = {}
    streams = [stream for stream in losses if asked[stream]]
    for stream in streams:
        loss = losses[stream] if scaler is None else scaler.scale(losses[stream])
        retains = stream != streams[-1]
        found[stream] = torch.autograd.grad(loss, asked[stream], retain_graph=retains, allow_unused=True)
    return found


def refuse_without_reach(gradients: Mapping[str, Sequence[Tensor | None]], groups: Groups, owner: str) -> None:
    """Refuse a loss that has never reached any of the parameters.

    Raises:
        UserError: naming the stream, and the optimizer after its owner.
    """
    for stream, found in gradients.items():
        is_known = any(stream in group["steps"] for group in groups)
        if not is_known and all(gradient is None for gradient in found):
            raise UserError(f"the {stream} loss reaches none of the parameters that {owner} was given")


def is_of_compiled_code(loss: Tensor) -> bool:
    """Whether a part of the loss's graph was made by torch.compile, whatever its backend."""
    return _has_node(loss, "CompiledFunction")


def check_losses(losses: Mapping[str, Tensor], groups: Groups, owner: str) -> None:
    """Refuse losses that lead nowhere, are several numbers, or hide parameters behind torch's reentrant checkpoints.

    Such parameters have a gradient in a plain `backward()` alone; a loss is looked at for them when it is seen first.

    Raises:
        UserError: naming the loss.
    """
    for stream, loss in losses.items():
        if not loss.requires_grad:
            raise UserError(f"the {stream} loss carries no gradient; pass None where there is no such loss")
        if loss.numel() != 1:
            raise UserError(f"the {stream} loss must be a scalar, got shape {tuple(loss.shape)}; take its mean")
        is_first = not any(stream in group["steps"] for group in groups)
        if is_first and _has_node(loss, "CheckpointFunction"):
            raise UserError(
                f"the {stream} loss comes through torch.utils.checkpoint with use_reentrant=True, which hides the "
                f"parameters within from {owner}; pass use_reentrant=False"
            )


def _has_node(loss: Tensor, name: str) -> bool:
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if name in node.name():
            return True
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False


def open_to(stream: str, groups: Groups, state: State) -> list[Tensor]:
    """The trainable parameters that a stream has not reached yet, but for those that `settle` has ruled out."""
    key = momentum_key(stream)
    return [
        parameter
        for group in groups
        for place, parameter in enumerate(group["params"])
        if parameter.requires_grad and key not in state.get(parameter, {}) and place not in group["settled"]
    ]


def joining(stream: str, loss: Tensor, found: Mapping[Tensor, Tensor], groups: Groups, state: State) -> list[Tensor]:
    """Those of the open parameters that the loss turns out to reach.

    Compiled code gives zeros for what is not reached. There, an eager pass before has the last word on parameters
    that another loss reaches: to look at their numbers would have a GPU wait in every step.

    Args:
        stream: the loss's.
        loss: its graph is looked at, which may have been freed.
        found: gradients of the open parameters, of those that have one.
        groups: those that had no eager pass of this stream before learn that there was one now.
        state: who is reached by now.
    """
    unseen = [group for group in groups if stream not in group["seen_eagerly"]]
    if not (found or unseen):
        return []
    if not is_of_compiled_code(loss):
        for group in unseen:
            group["seen_eagerly"] = [*group["seen_eagerly"], stream]
        return list(found)
    seen = {p for group in groups if stream in group["seen_eagerly"] for p in group["params"]}
    return _not_all_zero({p: gradient for p, gradient in found.items() if p not in seen or not state.get(p)})


def enter(stream: str, members: Collection[Tensor], groups: Groups, state: State) -> None:
    """Make the stream known, and give its members the momentum that marks them as such."""
    key = momentum_key(stream)
    for group in groups:
        group["steps"] = {stream: 0} | group["steps"]
        for parameter in group["params"]:
            if parameter in members and key not in state[parameter]:
                state[parameter][key] = torch.zeros_like(parameter)
                if passed := group["steps"][stream]:
                    state[parameter][joined_key(stream)] = passed


def settle(reached: Mapping[str, Iterable[Tensor]], groups: Groups, state: State) -> None:
    """Have each stream reach these parameters and no others, whatever is found later; of frozen ones nothing is said.

    Raises:
        UserError: a parameter that is not in the groups.
    """
    mine = {parameter for group in groups for parameter in group["params"]}
    for stream, given in reached.items():
        members = set(given)
        if strangers := len(members - mine):
            raise UserError(f"{strangers} of the parameters that the {stream} loss reaches are not this optimizer's")
        for parameter in mine - members:
            for key in (momentum_key(stream), joined_key(stream)):
                state.get(parameter, {}).pop(key, None)
        enter(stream, members, groups, state)
    for group in groups:
        group["settled"] = [place for place, parameter in enumerate(group["params"]) if parameter.requires_grad]


def leave_out(parameters: Iterable[Tensor], state: State, streams: Streams) -> None:
    """Frozen parameters do not age: put off by a step when each of their momenta, and the second moment, joined."""
    for parameter in parameters:
        mine = state[parameter]
        for name in (*streams, SQUARES):
            if (name == SQUARES and SQUARES in mine) or momentum_key(name) in mine:
                mine[joined_key(name)] = mine.get(joined_key(name), 0) + 1


def _not_all_zero(gradients: Mapping[Tensor, Tensor]) -> list[Tensor]:
    """The parameters whose gradient has an element other than zero; waits for the device."""
    if not gradients:
        return []
    flags = [gradient.any() for gradient in gradients.values()]
    is_there = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()
    return [parameter for parameter, there in zip(gradients, is_there, strict=True) if there]
