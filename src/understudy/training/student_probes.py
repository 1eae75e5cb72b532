"""The probes of one student: what they see of its steps, and what they have returned so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from understudy.core.batch import Losses, Pairing
from understudy.probes import PROBES, EpochSight, Probe, Probed, Sight
from understudy.utils.hashing import hashed
from understudy.utils.seeding import seeded

if TYPE_CHECKING:
    from understudy.training.student import Student

__all__ = ["Series", "StudentProbes"]


@dataclass
class Series:
    """What one probe has returned of one student."""

    places: list[tuple[int, int]] = field(default_factory=list)  # epoch and step of each look
    values: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, epoch: int, step: int, found: Mapping[str, Tensor | float]) -> None:
        """Add a look, which has the names and shapes of those before."""
        as_tensors = {
            name: torch.as_tensor(value, dtype=torch.float64).detach().cpu().clone() for name, value in found.items()
        }
        before = {name: seen[-1].shape for name, seen in self.values.items()}
        if before and before != {name: value.shape for name, value in as_tensors.items()}:
            raise ValueError(f"returned {sorted(as_tensors)}, and {sorted(before)} before: names and shapes must stay")
        self.places.append((epoch, step))
        for name, value in as_tensors.items():
            self.values.setdefault(name, []).append(value)

    def tensors(self) -> dict[str, Tensor]:
        """(K,) "epoch" and "step", and (K, ...) each of the values."""
        if not self.places:
            return {}
        places = torch.tensor(self.places, dtype=torch.int64)
        stacked = {name: torch.stack(seen) for name, seen in self.values.items()}
        return {"epoch": places[:, 0].clone(), "step": places[:, 1].clone(), **stacked}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Series:
        """What `tensors` gave."""
        if not tensors:
            return cls()
        places = list(zip(tensors["epoch"].tolist(), tensors["step"].tolist(), strict=True))
        rest = {name: list(value.unbind()) for name, value in tensors.items() if name not in ("epoch", "step")}
        return cls(places, rest)


class StudentProbes:
    """The probes of one student; in the steps that they see, the student calls `see`, `before_step` and `look`.

    Args:
        student: that is looked at.
        names: of the probes.
        say: is told of one of another package that fails.
    """

    def __init__(self, student: Student, names: Sequence[str], *, say: Callable[[str], None]) -> None:
        self._student, self._say = student, say
        methods = [weighted.method for weighted in student.methods]
        parameters = student.named_parameters()
        self._parameters = [parameter for _, parameter in parameters]
        probed = Probed(student.name, student.model.module, methods, parameters, student.update)
        self.probes = {name: PROBES[name](probed) for name in names}
        found = {name: self._problem(probe) for name, probe in self.probes.items()}
        self.problems = {name: why for name, why in found.items() if why is not None}
        self.probes = {name: probe for name, probe in self.probes.items() if name not in self.problems}
        self.series = {name: Series() for name in self.probes}
        self._place = (0, 0)
        self._pairing: Pairing | None = None
        self._sight: Sight | None = None
        self._gradients: dict[str, list[Tensor]] = {}
        self._reached: dict[str, list[bool]] = {}

    def _problem(self, probe: Probe) -> str | None:
        """Why there is nothing to see of this student.

        Compiled code can be gone through backward a second time where it was made for that (`graphs_retained`), which
        is other code: a probe that asked for gradients would change the step.
        """
        if probe.needs_gradients and self._student.compile:
            return "a compiled network is not gone through twice; leave out compile"
        return probe.problem()

    def begin(self, epoch: int, step: int) -> None:
        """Before the passes of a step that is seen."""
        self._place = (epoch, step)
        self._gradients, self._reached = {}, {}
        self._each(lambda probe: probe.begin())

    def see(self, losses: Losses, pairing: Pairing) -> None:
        """The losses of a pass, before their backward pass; the graph is kept."""
        self._pairing = _detached(pairing)
        if not any(probe.needs_gradients for probe in self.probes.values()):
            return
        scaler = self._student.scaler
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        for stream, loss in (("task", losses.task), ("distill", losses.distill)):
            if loss is None or not loss.requires_grad:
                continue
            found = torch.autograd.grad(loss * scale, self._parameters, retain_graph=True, allow_unused=True)
            mine = [
                torch.zeros_like(p) if g is None else g / scale for p, g in zip(self._parameters, found, strict=True)
            ]
            reached = [gradient is not None for gradient in found]
            if stream in self._gradients:
                mine = [a + b for a, b in zip(self._gradients[stream], mine, strict=True)]
                reached = [a or b for a, b in zip(self._reached[stream], reached, strict=True)]
            self._gradients[stream], self._reached[stream] = mine, reached

    def before_step(self) -> None:
        """All passes are done; the weights have not moved yet."""
        assert self._pairing is not None, "a step has a pass"
        added_up = {stream: self._student.world.add_up(found) for stream, found in self._gradients.items()}
        epoch, step = self._place
        self._sight = Sight(epoch, step, self._pairing, added_up, self._reached)
        sight = self._sight
        self._each(lambda probe: probe.before_step(sight))

    def look(self) -> None:
        """The weights have moved."""
        assert self._sight is not None, "before_step comes first"
        sight, (epoch, step) = self._sight, self._place
        self._pairing = self._sight = None
        self._gradients = {}
        self._each(lambda probe: self._note(probe, epoch, step, probe.look(sight)))

    def look_at_epoch(self, sight: EpochSight) -> None:
        """An epoch is over."""
        self._each(lambda probe: self._note(probe, sight.epoch, sight.step, probe.look_at_epoch(sight)))

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            name: {"state": probe.state_dict(), "series": self.series[name].tensors()}
            for name, probe in self.probes.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        for name, probe in self.probes.items():
            if name in state:
                probe.load_state_dict(state[name]["state"])
                self.series[name] = Series.of(state[name]["series"])

    def _note(self, probe: Probe, epoch: int, step: int, found: Mapping[str, Tensor | float]) -> None:
        if found:
            self.series[probe.name].add(epoch, step, found)

    def _each(self, call: Callable[[Probe], None]) -> None:
        """Call each probe, with random numbers of its own."""
        for name, probe in list(self.probes.items()):
            with seeded(hashed(0, "probe", name, *self._place)), torch.no_grad():
                try:
                    call(probe)
                except Exception as error:  # whatever somebody else's probe raises
                    if type(probe).__module__.startswith("understudy."):
                        raise
                    del self.probes[name]
                    self._say(
                        f"warning  probe {name} failed on {self._student.name} and is left out from here on; training "
                        f"goes on ({type(error).__name__}: {error})"
                    )


def _detached(pairing: Pairing) -> Pairing:
    return Pairing(
        student_logits=pairing.student_logits.detach(),
        teacher_logits=pairing.teacher_logits,
        labels=pairing.labels,
        student_features={name: feature.detach() for name, feature in pairing.student_features.items()},
        teacher_features=pairing.teacher_features,
        indices=pairing.indices,
        copies=pairing.copies,
    )
