"""Student: one training step of one row, from a Batch and an Observation to new weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from understudy.border import check_pairing
from understudy.methods.base import Method
from understudy.random_state import RandomState
from understudy.step import Batch, Losses, Observation, Pairing
from understudy.taps import TappedModel
from understudy.tasks.base import Task
from understudy.updates.base import Update
from understudy.updates.schedules import Schedule, lr_factor

__all__ = ["Student", "WeightedMethod", "labels_of", "parameters_of"]


@dataclass(frozen=True, slots=True)
class WeightedMethod:
    """A method, and how its terms enter the distillation loss."""

    method: Method
    weight: float
    warmup_epochs: int = 0

    def weight_in(self, epoch: int) -> float:
        """Weight in an epoch counted from 1, constant within it, as the field does it."""
        return self.weight * (min(epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0)


class Student:
    """One row of one seed: a model on its way, with everything that decides where it goes.

    Args:
        name: the row's name.
        model: the tapped network.
        task: runs it on a batch.
        methods: what is distilled; none trains the model alone.
        task_weight: weight of the task's own loss.
        update: turns losses into new weights; it was built on `parameters_of(model, methods)`.
        schedule: learning rate over the epochs.
        seed: of this student's own random state (dropout, negatives), which is swapped in around its steps.
    """

    def __init__(
        self,
        name: str,
        model: TappedModel,
        *,
        task: Task,
        methods: Sequence[WeightedMethod] = (),
        task_weight: float = 1.0,
        update: Update,
        schedule: Schedule,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.model = model
        self.task = task
        self.methods = tuple(methods)
        self.connectors = nn.ModuleList(weighted.method for weighted in self.methods)
        self.task_weight = task_weight
        self.update = update
        self.schedule = schedule
        self.random_state = RandomState(seed)
        self._is_first_step = True

    def begin_step(self, *, progress: float, epochs: int) -> None:
        """Set the learning rate for `progress` epochs behind us (0-based, fractional) of `epochs`."""
        self.update.set_lr_factor(lr_factor(self.schedule, progress, epochs))

    def step(self, batch: Batch, seen: Observation, *, epoch: int) -> tuple[Losses, Pairing]:
        """A whole training step: forward, losses, new weights."""
        with self.random_state.swapped_in():
            task_loss, pairings = self.task.pair(self.model, seen, batch)
            if self._is_first_step:
                check_pairing(pairings["main"], [weighted.method for weighted in self.methods])
                self._is_first_step = False
            losses = self._weighed(task_loss, pairings["main"], epoch)
            self.update(losses)
        return losses, pairings["main"]

    def predict(self, batch: Batch) -> Any:
        """Output of the deployed model; the caller sets evaluation mode."""
        return self.deployed()(self.model.prepare(batch.images))

    def deployed(self) -> nn.Module:
        """What is evaluated, counted, timed and exported."""
        model = self.model.module
        for weighted in self.methods:
            model = weighted.method.deployed(model)
        return model

    def train(self, mode: bool = True) -> None:
        """Set training or evaluation mode of model and connectors."""
        self.model.train(mode)
        self.connectors.train(mode)

    def state_dict(self) -> dict[str, Any]:
        """Weights, connectors, update and random state."""
        return {
            "model": self.model.module.state_dict(),
            "connectors": self.connectors.state_dict(),
            "update": self.update.state_dict(),
            "random_state": self.random_state.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.model.module.load_state_dict(state["model"])
        self.connectors.load_state_dict(state["connectors"])
        self.update.load_state_dict(state["update"])
        self.random_state.load_state_dict(state["random_state"])

    def _weighed(self, task_loss: Tensor, pairing: Pairing, epoch: int) -> Losses:
        distill: Tensor | None = None
        logged: dict[str, Tensor] = {}
        labels = labels_of([weighted.method for weighted in self.methods])
        for label, weighted in zip(labels, self.methods, strict=True):
            terms = weighted.method(pairing)
            loss = weighted.weight_in(epoch) * torch.stack(list(terms.values())).sum()
            distill = loss if distill is None else distill + loss
            for term, value in terms.items():
                logged[label if term == weighted.method.name else f"{label}.{term}"] = value.detach()
        return Losses(
            task=self.task_weight * task_loss, distill=distill, terms={"task_loss": task_loss.detach(), **logged}
        )


def labels_of(methods: Sequence[Method]) -> list[str]:
    """The methods' names, the second of one name as "kd#2"."""
    names = [method.name for method in methods]
    return [
        name if names[:place].count(name) == 0 else f"{name}#{names[:place].count(name) + 1}"
        for place, name in enumerate(names)
    ]


def parameters_of(model: nn.Module, methods: Iterable[nn.Module]) -> list[tuple[str, nn.Parameter]]:
    """Named parameters that an update moves: the student's and every connector's."""
    named = list(model.named_parameters())
    for number, method in enumerate(methods):
        named += [(f"connectors.{number}.{name}", parameter) for name, parameter in method.named_parameters()]
    return [(name, parameter) for name, parameter in named if parameter.requires_grad]
