"""Momenta: how far each loss has a student's momentum to itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from understudy.analysis.conflict import conflict, cosine
from understudy.optim.dot.optimizer import StreamOptimizer
from understudy.optim.dot.parts import momentum_key
from understudy.probes.base import Probe, Probed, Sight, Value

__all__ = ["Momenta"]

LOSSES = ("task", "distill")
UNDECAYED = ("AdamW", "Lion")  # decay the weights beside their gradient
AVERAGING = ("AdamW", "NAdam", "Lion")  # take in a gradient by 1 - momentum


class Momenta(Probe, name="momenta"):
    """Cosines between the momenta of task and distill loss and their sum, and of the two gradients.

    Zhao et al., "DOT: A Distillation-Oriented Trainer", ICCV 2023, figure 5: cos(v_distill, v) and cos(v_task, v),
    where v = v_task + v_distill, over the parameters that both losses reach; and their conflict, eq. 6 to 9.

    Under DOT these are its own momenta, under DeepKD v_distill is the sum of those of both its parts. An update that
    keeps one momentum is probed as DOT with delta 0: both are gathered here, from the gradients of the steps that are
    seen, each standing for the steps since the one before. So they are exact with `probe_every: 1`, and an estimate
    beyond.
    """

    needs_gradients = True

    def __init__(self, student: Probed) -> None:
        super().__init__(student)
        self._gathered: dict[str, list[Tensor]] = {}  # by loss, where the update keeps one momentum
        self._last_step = 0

    def problem(self) -> str | None:
        """A student alone has one loss."""
        return None if self.student.methods else "nothing is distilled, so that there is one gradient"

    def before_step(self, sight: Sight) -> None:
        """Gather momenta as DOT with delta 0 does, where the update does not keep them itself."""
        if len(sight.gradients) < 2 or self._of_update() is not None:
            return
        group_of = {p: group for group in self.student.update.optimizer.param_groups for p in group["params"]}
        parameters = [parameter for _, parameter in self.student.parameters]
        factor = self._clipped_by(sight)
        kind = type(self.student.update.optimizer).__name__
        held = sight.step - self._last_step
        self._last_step = sight.step
        for stream, gradients in sight.gradients.items():
            before = self._gathered.get(stream) or [torch.zeros_like(gradient) for gradient in gradients]
            after = []
            for parameter, gradient, old in zip(parameters, gradients, before, strict=True):
                group = group_of.get(parameter, {})
                momentum = float(group.get("momentum", group.get("betas", (0.9,))[0]))
                taken = gradient * factor
                if stream == "task" and kind not in UNDECAYED and group.get("weight_decay"):
                    taken = taken + group["weight_decay"] * parameter.detach()
                kept = momentum**held
                gain = 1 - kept if kind in AVERAGING else (1 - kept) / (1 - momentum)
                after.append(kept * old + gain * taken)
            self._gathered[stream] = after

    def look(self, sight: Sight) -> Mapping[str, Value]:
        """Cosines, norms, and what eq. 6 to 9 say of the gradients."""
        if len(sight.gradients) < 2:
            return {}
        both = [a and b for a, b in zip(sight.reached["task"], sight.reached["distill"], strict=True)]
        if not any(both):
            return {}
        task, distill = (_of(sight.gradients[loss], both) for loss in LOSSES)
        momenta = self._of_update() or self._gathered
        v_task, v_distill = (_of(momenta[loss], both) for loss in LOSSES)
        total = [a + b for a, b in zip(v_task, v_distill, strict=True)]
        found = conflict(task, distill)
        return {
            "cos_distill_total": cosine(v_distill, total),
            "cos_task_total": cosine(v_task, total),
            "cos_momenta": cosine(v_task, v_distill),
            "cos_gradients": found.cosine,
            "opposed": found.opposed,
            "consistent": found.consistent,
            "difference": conflict(v_task, v_distill).difference,
            "norm_task_gradient": _norm(task),
            "norm_distill_gradient": _norm(distill),
            "norm_task_momentum": _norm(v_task),
            "norm_distill_momentum": _norm(v_distill),
        }

    def state_dict(self) -> dict[str, Any]:
        """The momenta that were gathered."""
        return {"gathered": self._gathered, "last_step": self._last_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back, where the parameters are."""
        parameters = [parameter for _, parameter in self.student.parameters]
        self._gathered = {
            stream: [tensor.to(parameter.device) for tensor, parameter in zip(found, parameters, strict=True)]
            for stream, found in state["gathered"].items()
        }
        self._last_step = state["last_step"]

    def _of_update(self) -> dict[str, list[Tensor]] | None:
        """The update's own momenta by loss, zeros where a loss does not reach; None where it keeps one for both."""
        optimizer = self.student.update.optimizer
        if not isinstance(optimizer, StreamOptimizer) or not any(map(optimizer.reached, optimizer.streams)):
            return None
        found: dict[str, list[Tensor]] = {}
        for stream in optimizer.streams:
            loss, key = ("task" if stream == "task" else "distill"), momentum_key(stream)
            kept = [optimizer.state.get(p, {}).get(key, torch.zeros_like(p)) for _, p in self.student.parameters]
            found[loss] = [a + b for a, b in zip(found[loss], kept, strict=True)] if loss in found else kept
        return found

    def _clipped_by(self, sight: Sight) -> float:
        """What the update is going to shorten the step's gradient by."""
        longest = getattr(self.student.update, "clip_norm", None)
        if longest is None:
            return 1.0
        sums = [a + b for a, b in zip(*sight.gradients.values(), strict=True)]
        return float(min(1.0, longest / (_norm(sums) + 1e-6)))


def _of(tensors: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    return [tensor for tensor, is_wanted in zip(tensors, wanted, strict=True) if is_wanted]


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(sum(float(tensor.detach().double().square().sum()) for tensor in tensors) ** 0.5)
