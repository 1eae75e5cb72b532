"""Settings of DOT and its like: what they may be in a recipe, in an optimizer's parameter groups, at each step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from understudy.optim.base import OWN_DEFAULTS, UpdateConfig, one_of
from understudy.optim.dot.parts import Streams
from understudy.optim.dot.rules import RULES
from understudy.utils.errors import UserError

__all__ = [
    "ABSENT_BEFORE",
    "DOT_STREAMS",
    "NOTHING_KNOWN",
    "DOTSettings",
    "StreamSettings",
    "check_at_step",
    "check_clip_norm",
    "check_group",
    "check_momentum",
    "check_state",
    "completed",
    "fixed_settings",
    "has_warned_of_unread_gradients",
]

# What a parameter group remembers of the losses; values are replaced, never changed. Steps by loss since it was first
# seen; losses that an eager pass has shown these parameters; places of parameters that `settle` has spoken about.
NOTHING_KNOWN: dict[str, Any] = {"steps": {}, "seen_eagerly": [], "settled": []}
ABSENT_BEFORE: dict[str, Any] = {
    "alpha": 0.9,
    "nesterov": False,
    "delta_warmup": 0,
}  # settings that states of earlier versions lack
GAINS = ("heavy_ball", "ema")
DOT_STREAMS = Streams("DOT", {"task": ("delta", -1.0), "distill": ("delta", +1.0)})
# From the first on, below the second; in the words of the third.
BOUNDS: dict[str, tuple[float, float, str]] = {
    "lr": (0.0, math.inf, "a finite number of 0 or more"),
    "momentum": (0.0, 1.0, "from 0 on and below 1"),
    "delta_warmup": (0, math.inf, "a whole number of steps, 0 or more"),
    "weight_decay": (0.0, math.inf, "a finite number of 0 or more"),
    "dampening": (0.0, 1.0, "from 0 on and below 1"),
    "beta2": (0.0, 1.0, "from 0 on and below 1"),
    "alpha": (0.0, 1.0, "from 0 on and below 1"),
    "eps": (0.0, math.inf, "a finite number of 0 or more"),
}
OF_A_DELTA = (-1.0, 1.0, "above -1 and below 1")
LONG_RUN = 50  # memories, below which a run is called short
ROUNDING = 1e-12  # that far below 0 a scheduler's arithmetic may leave a rate that it lets run out


class StreamSettings(UpdateConfig):
    """Settings of every optimizer that keeps a momentum for each loss; what shifts them apart is its own."""

    only_with = UpdateConfig.only_with | {"dampening": ("sgd",), "gain": ("adamw", "nadam", "lion")}
    allow_negative_momentum: bool = False  # True: delta may be larger than momentum
    delta_warmup: int = Field(default=0, ge=0)  # steps over which delta rises from 0; 0: the paper's, there at once
    dampening: float = Field(default=0.0, ge=0, lt=1)  # of sgd, as torch has it
    gain: Literal["heavy_ball", "ema"] = (
        "heavy_ball"  # of AdamW, NAdam and Lion: gradients add up as in SGD, or average
    )

    def note_on_memory(self, num_steps: int, largest_delta: float, owner: str) -> str | None:
        """What to say of a run in which the longest memory, that of momentum + largest_delta, hardly forgets."""
        memory = round(1 / (1 - self.momentum - largest_delta))
        if num_steps >= LONG_RUN * memory:
            return None
        return (
            f"{owner}'s longer memory is {memory} steps, and {num_steps:,} steps are {num_steps / memory:.3g} of them; "
            f"in runs of fewer than about {LONG_RUN} ({LONG_RUN * memory:,} steps) DOT was behind the same row without "
            "it. Compare both, or have delta rise slowly (update.delta_warmup)"
        )

    def rising_in_words(self) -> str:
        """' (after 500 steps)', where the momenta are not apart at once."""
        return f" (after {self.delta_warmup:,} steps)" if self.delta_warmup else ""

    @field_validator("dampening")
    @classmethod
    def _goes_with_looking_ahead(cls, dampening: float, info: ValidationInfo) -> float:
        if dampening and info.data.get("nesterov"):
            raise ValueError(f"Nesterov's momentum has none; leave it out, got {dampening:g}")
        return dampening


class DOTSettings(StreamSettings):
    """DOT with SGD (the paper's), Nesterov's momentum, AdamW, NAdam, RMSprop (torch's or TensorFlow's) or Lion."""

    delta: float = Field(default=0.075, validate_default=True)  # CIFAR-100; 0.09 for ImageNet

    def momentum_in_words(self) -> str:
        """'momentum 0.9 -/+ 0.075'."""
        return f"{super().momentum_in_words()} -/+ {self.delta:g}{self.rising_in_words()}"

    def length_note(self, num_steps: int) -> str | None:
        """Whether a run is so short that the longer memory hardly forgets within it."""
        return self.note_on_memory(num_steps, abs(self.delta), DOT_STREAMS.owner)

    @field_validator("delta")
    @classmethod
    def _goes_with_the_momentum(cls, delta: float, info: ValidationInfo) -> float:
        momentum = info.data.get("momentum")
        if momentum is not None:  # else that is a problem of its own
            check_momentum(DOT_STREAMS, "delta", delta, momentum, bool(info.data.get("allow_negative_momentum")))
        return delta


def completed(settings: Mapping[str, Any], streams: Streams) -> dict[str, Any]:
    """A group's settings with what the optimizer has of its own in place of None; checked.

    Raises:
        UserError: as `check_group`; or `clip_norm`, which is the whole optimizer's.
    """
    if "clip_norm" in settings:
        raise UserError(
            f"clip_norm is of all parameters together; give it to {streams.owner}, not to a parameter group"
        )
    found = dict(settings)
    if found["optimizer"] == "nesterov":
        found |= {"optimizer": "sgd", "nesterov": True}
    own = OWN_DEFAULTS.get(found["optimizer"], {})
    for name in ("beta2", "alpha"):
        if found[name] is None:
            found[name] = own.get(name, UpdateConfig.model_fields[name].default)
    check_group(found, streams)
    return found


def check_group(group: Mapping[str, Any], streams: Streams, *, slack: float = 0.0) -> None:
    """Refuse settings under which a group would not train, or not as it says.

    Args:
        group: with all settings.
        streams: the optimizer's.
        slack: how far below 0 the learning rate may be.

    Raises:
        UserError: a number that is none or out of its bounds, momentum and delta that do not go together, an unknown
            optimizer or gain, Nesterov's momentum or dampening where there is no room for it.
    """
    if group["optimizer"] not in RULES:
        raise UserError(
            f"{streams.owner} has no rule for {group['optimizer']!r}; take {one_of(RULES)}, or update joint"
        )
    if group["gain"] not in GAINS:
        raise UserError(f"gain must be {' or '.join(GAINS)}, got {group['gain']!r}")
    for name, (lowest, below, words) in {**BOUNDS, **dict.fromkeys(streams.settings, OF_A_DELTA)}.items():
        value = group[name]
        is_number = isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)
        # NaN is neither.
        if not (is_number and lowest - (slack if name == "lr" else 0.0) <= value < below):
            raise UserError(f"{name} must be {words}, got {value!r}")
    for name in streams.settings:
        check_momentum(streams, name, group[name], group["momentum"], group["allow_negative_momentum"])
    if group["optimizer"] != "sgd" and (group["nesterov"] or group["dampening"]):
        raise UserError(f"nesterov and dampening belong to optimizer sgd, not to {group['optimizer']}; leave them out")
    if group["nesterov"] and (group["momentum"] == 0 or group["dampening"]):
        raise UserError("nesterov needs a momentum above 0 and no dampening")


def check_at_step(groups: Sequence[Mapping[str, Any]], clip_norm: Any, streams: Streams) -> None:
    """As `check_group` and `check_clip_norm`, of what a scheduler or a hand has made of them since.

    Raises:
        UserError: with the number of the group.
    """
    check_clip_norm(clip_norm)
    for number, group in enumerate(groups):
        try:
            check_group(group, streams, slack=ROUNDING)
        except UserError as error:
            raise UserError(
                f"parameter group {number} at this step: {error}. If a scheduler moves the momentum (OneCycleLR, "
                "CyclicLR), give it cycle_momentum=False or a max_momentum below 1 - |delta|"
            ) from None


def check_clip_norm(clip_norm: Any) -> None:
    """Refuse a clip_norm under which nothing would move, or upwards.

    Raises:
        UserError: neither None nor a finite number above 0.
    """
    if clip_norm is not None and not (isinstance(clip_norm, Real) and 0 < float(clip_norm) < math.inf):
        raise UserError(f"clip_norm must be a finite number above 0, or None to clip nothing, got {clip_norm!r}")


def check_state(state: Mapping[str, Any], streams: Streams) -> None:
    """Refuse what is no state of this optimizer, or one that it could not train with.

    Args:
        state: as `state_dict` gives it.
        streams: the optimizer's.

    Raises:
        UserError: it is another optimizer's, or a setting is out of its bounds.
    """
    for group in state["param_groups"]:
        missing = [name for name in ("optimizer", "momentum", *streams.settings, "steps") if name not in group]
        if missing:
            raise UserError(
                f"this is no state of {streams.owner}: its parameter groups have no {', '.join(missing)}. That of "
                f"another optimizer, such as torch.optim.SGD, has one momentum where {streams.owner} has one for each "
                f"loss; load the weights alone and let {streams.owner} begin anew"
            )
        check_group({**ABSENT_BEFORE, **group}, streams)


def fixed_settings(groups: Sequence[Mapping[str, Any]]) -> Hashable:
    """All settings of the groups that do not change from step to step of themselves."""
    passing = ("params", "lr", "initial_lr", *NOTHING_KNOWN)
    return tuple(tuple((name, value) for name, value in group.items() if name not in passing) for group in groups)


def skip_problem(groups: Sequence[Mapping[str, Any]], streams: Streams) -> str | None:
    """What there is of the groups' settings that has to know which steps a GradScaler skipped; None: nothing."""
    for group in groups:
        if group["optimizer"] != "sgd":
            return f"Python counts the steps of {group['optimizer']}"
        for name in ("dampening", "delta_warmup"):
            if group[name]:
                return f"Python counts steps for {name}"
        if 0 in (group["momentum"], *(group["momentum"] + streams.shift(stream, group) for stream in streams)):
            return "the kernel that skips keeps no momentum of 0"
    return None


def has_warned_of_unread_gradients(groups: Sequence[Mapping[str, Any]], streams: Streams) -> bool:
    """Whether a parameter has a `.grad`, which is left alone; if so, a warning of who calls `step` says so."""
    if all(parameter.grad is None for group in groups for parameter in group["params"]):
        return False
    warnings.warn(
        f"a parameter has a .grad, which {streams.owner} does not read: give losses to optimizer.backward("
        f"{', '.join(f'{stream}=...' for stream in streams)}) in place of loss.backward(), and clip by "
        f"{streams.owner}(clip_norm=...) in place of clip_grad_norm_",
        stacklevel=5,  # over `step` and torch's two wrappers of it
    )
    return True


def check_momentum(streams: Streams, name: str, delta: float, momentum: float, allow_negative: bool) -> None:
    """Refuse a delta under which a stream would never forget, or would swing.

    Raises:
        UserError: what comes of it with the momentum, and where the border is.
    """
    signs = {sign for setting, sign in streams.shifts.values() if setting == name}
    found = [momentum + sign * delta for sign in signs]
    # Where streams are moved both ways, the border is the same on either side.
    shift, less = (f"+ |{name}|", f"- |{name}|") if len(signs) > 1 else (f"+ {name}", f"+ {name}")
    if max(found) >= 1:
        raise UserError(
            f"{delta:g} with momentum {momentum:g} gives {max(found):g}; momentum {shift} must stay below 1"
        )
    if min(found) < 0 and not allow_negative:
        raise UserError(
            f"{delta:g} with momentum {momentum:g} gives {min(found):g}; momentum {less} must not fall below 0, "
            "unless allow_negative_momentum is set"
        )
