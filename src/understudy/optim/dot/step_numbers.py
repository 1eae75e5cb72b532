"""StepNumbers: what every part's rule works out anew at each step, as floats or on the device; and the step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from understudy.optim.device_numbers import DeviceNumbers
from understudy.optim.dot.parts import Gradients, Part, clipped
from understudy.optim.dot.rules import Numbers, rule_of, skipping_sgd_

__all__ = ["StepNumbers"]


class StepNumbers:
    """The numbers of the parts of one layout.

    Args:
        device: where they are kept, for steps that a captured graph replays; None: in Python.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self._of: dict[int, DeviceNumbers] = {}  # by id of a part, which lives as long as its layout

    def forget(self) -> None:
        """There is another layout now."""
        self._of = {}

    def set(self, parts: Iterable[Part]) -> None:
        """Give those on the device their values for the step to come."""
        if self.device is None:
            return
        for part in parts:
            numbers = rule_of(part).numbers(part)
            if id(part) not in self._of:
                dtype = torch.promote_types(torch.float32, part.parameters[0].dtype)
                self._of[id(part)] = DeviceNumbers(list(numbers), device=self.device, dtype=dtype)
            self._of[id(part)].set(numbers)

    def of(self, part: Part) -> Numbers:
        """The numbers of a part: values that were set, or, where it was laid out since, those of now."""
        if self.device is None:
            return rule_of(part).numbers(part)
        if id(part) not in self._of:
            self.set([part])
        return self._of[id(part)].tensors

    def move_(
        self, parts: Sequence[Part], gradients: Gradients, *, clip_norm: float | None, skip: Tensor | None = None
    ) -> None:
        """Move the weights of all parts by their rules.

        Args:
            parts: of one layout.
            gradients: by stream, of all parts.
            clip_norm: longest sum of the streams.
            skip: a () tensor of 1 where everything is to stay as it is; None: never.
        """
        if clip_norm is not None:
            gradients = clipped(gradients, parts, clip_norm)
        for part in parts:
            if skip is None:
                rule_of(part).move_(part, part.cut(gradients), self.of(part))
            else:
                skipping_sgd_(part, part.cut(gradients), self.of(part), skip)
