"""What one or several methods of a student need and are called together."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from understudy.core.taps import Taps
from understudy.methods.base import METHODS, MethodConfig
from understudy.utils.errors import UserError

__all__ = ["ALONE", "default_task_weight"]

ALONE = "alone"  # the row in which the student learns without a teacher


def check_num_classes(config: MethodConfig, num_classes: int, *, has_background: bool = False) -> None:
    """Refuse a method that is not defined on so few classes, of which the background is one more where there is one."""
    needed = config.method.min_classes
    if num_classes + has_background < needed:
        found = f"{num_classes}{' and the background' if has_background else ''}"
        raise UserError(
            f"method {config.method.name!r} needs at least {needed} classes, but the data has {found}; "
            "take kd or dist, or tfkd without a teacher"
        )


def refuse_without_streams(configs: Sequence[MethodConfig], needed: Collection[str], *, update: str) -> None:
    """Refuse methods that do not tell apart the parts of their loss which an update moves the weights by.

    Raises:
        UserError: naming the method, and those that do.
    """
    for config in configs:
        if not set(needed) <= set(config.method.streams.values()):
            known = sorted(name for name, method in METHODS.items() if set(needed) <= set(method.streams.values()))
            parts = " and ".join(stream.replace("_", "-") for stream in needed)
            raise UserError(
                f"update {update} has a momentum for the {parts} part of the distillation loss each, and method "
                f"{config.method.name!r} does not tell them apart; take {' or '.join(known)}, such as "
                f"{known[0]}+{update}, or another update"
            )


def taps_of(config: MethodConfig) -> Taps:
    """Where a method under these settings looks."""
    return config.method.taps_for(config)


def default_task_weight(methods: Sequence[MethodConfig]) -> float:
    """The first method's, or 1 for a student alone."""
    return methods[0].method.default_loss_for(methods[0]).task if methods else 1.0


def row_name_of(methods: Sequence[MethodConfig], suffix: str) -> str:
    """'alone', 'kd', 'crd+kd', 'kd+dot'; the suffix is the update's."""
    return "+".join([config.method.name for config in methods] or [ALONE]) + suffix


def weighted(config: MethodConfig) -> tuple[float, int]:
    """Weight and warm-up epochs of a method: the settings' own, else the method's default."""
    default = config.method.default_loss_for(config)
    weight = default.distill if config.weight is None else config.weight
    return weight, default.warmup_epochs if config.warmup_epochs is None else config.warmup_epochs
