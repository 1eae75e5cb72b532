"""StudentSpec: a student to be, before anything is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

from torch import nn

from understudy.core.compile import Compile
from understudy.core.precision import Precision
from understudy.methods.base import OF_COPIES, MethodConfig
from understudy.methods.combination import row_name_of
from understudy.optim import Joint, Schedule, UpdateConfig, row_suffix
from understudy.optim.ema import Averaging
from understudy.utils.errors import UserError, shortened_repr

__all__ = ["StudentSpec"]


@dataclass(frozen=True)
class StudentSpec:
    """One student to be: a network, what is distilled into it, and how it is moved.

    Args:
        model: any network; it is trained itself, not a copy.
        method: settings of one method or of several; none trains it alone.
        update: how losses become new weights.
        schedule: learning rate over the epochs.
        task_weight: None: the first method's default, 1 without a method.
        name: None: the methods' names, with "+dot" for that update, and so on.
        prepare: the network's own first operation on images in [0,1]; None: it takes them as they are.
        ema: settings of a running average of the weights, which is then what is evaluated and deployed.
        precision: of the networks' passes.
        accumulate: passes a step; each takes a part of the batch.
        compile: whether torch.compile makes the network faster; "reduce-overhead" is its mode with CUDA graphs.

    Raises:
        UserError: a setting of another kind (all of them named), or accumulation that would tear copies apart.
    """

    model: nn.Module
    method: MethodConfig | Sequence[MethodConfig] = ()
    update: UpdateConfig = field(default_factory=Joint.Config)
    schedule: Schedule = field(default_factory=Schedule)
    task_weight: float | None = None
    name: str | None = None
    prepare: nn.Module | None = None
    ema: Averaging | None = None
    precision: Precision = "float32"
    accumulate: int = 1
    compile: Compile = False

    def __post_init__(self) -> None:
        wrong = _wrong_settings(self)
        if wrong:
            raise UserError("\n".join(["StudentSpec:", *(f"  {line}" for line in wrong)]))

    @property
    def methods(self) -> tuple[MethodConfig, ...]:
        """The settings of all methods."""
        return (self.method,) if isinstance(self.method, MethodConfig) else tuple(self.method)

    @property
    def row_name(self) -> str:
        """Its name in logs and tables."""
        return self.name or row_name_of(self.methods, row_suffix(self.update, distils=bool(self.methods)))


def _wrong_settings(spec: StudentSpec) -> list[str]:
    """A line for each setting that is not what it should be."""
    methods = [spec.method] if isinstance(spec.method, MethodConfig | str) else spec.method
    weight, passes = spec.task_weight, spec.accumulate
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight)
    is_count = isinstance(passes, int) and not isinstance(passes, bool) and passes >= 1
    wanted = [
        ("model", isinstance(spec.model, nn.Module), "a torch.nn.Module"),
        (
            "method",
            isinstance(methods, Sequence) and all(isinstance(config, MethodConfig) for config in methods),
            "settings such as understudy.methods.KD.Config(), or several of these",
        ),
        ("update", isinstance(spec.update, UpdateConfig), "understudy.Joint.Config(...) or understudy.DOT.Config(...)"),
        ("schedule", isinstance(spec.schedule, Schedule), "an understudy.Schedule"),
        ("task_weight", weight is None or (is_number and weight >= 0), "a number from 0 on, or None"),
        ("name", spec.name is None or (isinstance(spec.name, str) and spec.name != ""), "a text, or None"),
        ("prepare", spec.prepare is None or isinstance(spec.prepare, nn.Module), "a torch.nn.Module, or None"),
        ("ema", spec.ema is None or isinstance(spec.ema, Averaging), "understudy.optim.ema.Averaging(decay=...)"),
        ("precision", spec.precision in get_args(Precision), f"one of {', '.join(get_args(Precision))}"),
        ("accumulate", is_count, "a whole number from 1 on"),
        ("compile", spec.compile in get_args(Compile), "True, False or 'reduce-overhead'"),
    ]
    wrong = [
        f"{name} must be {what}, got {shortened_repr(getattr(spec, name))}"
        for name, is_right, what in wanted
        if not is_right
    ]
    if not wrong and passes > 1:
        copying = [config.method.name for config in spec.methods if config.method.needs_for(config) & OF_COPIES]
        wrong += [
            f"accumulate {passes} would tear the copies of an image apart, which {name} compares" for name in copying
        ]
    return wrong
