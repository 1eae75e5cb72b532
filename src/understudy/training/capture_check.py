"""Whether the replay of a captured step does what the step does: both are taken from the same state, and compared.

A graph that reads a number which has changed since, draws random numbers that it was not told of, or misses what a
network does in Python would train on without a word. So one step is taken as it comes, undone, and replayed: before a
recording is relied on, and again in later epochs. The two may differ by rounding, where a library takes another kernel
within a graph, and by what the step differs from itself, where kernels add up in no fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from understudy.core.meters import StepRecord
from understudy.core.precision import forget_begun_step, scaler_tensors

if TYPE_CHECKING:
    from understudy.training.student import Student

__all__ = ["MAY_DIFFER", "checked_replay"]

MAY_DIFFER = 2.0**-7  # of the length of what a step changes: bfloat16's rounding, which is far above TF32's
TIMES_ITSELF = 4.0  # a replay may be so much further from the step than the step is from itself,
AT_MOST = 2.0**-3  # up to here: a step that differs more from itself does something else each time

Step = Callable[[], list[StepRecord]]
Parts = Mapping[str, list[Tensor]]


def checked_replay(students: Sequence[Student], step: Step, replay: Step) -> tuple[list[StepRecord], str | None]:
    """Take a step by its replay, once the step itself has been taken from the same state and undone.

    Where memory does not suffice for a second state, or the step leads to what is not finite, nothing can be said, and
    the replay stands.

    Args:
        students: whose state a step changes.
        step: takes it as it comes.
        replay: takes it by the recording.

    Returns:
        The records of the step, and None where both come to the same: what was replayed stands. Else what differs, in
        words; what stands is the step as it comes.
    """
    try:
        before = _State(students)
    except torch.OutOfMemoryError:
        return replay(), None
    try:
        records = step()
        wanted = _State(students)
    except torch.OutOfMemoryError:
        before.put_back()
        return replay(), None
    before.put_back()
    replayed = replay()
    apart = _distances(students, before, wanted) | _distances_of_records(students, records, replayed)
    if all(distance <= MAY_DIFFER for distance in apart.values()):
        return replayed, None
    before.put_back()
    again = step()
    itself = _distances(students, before, wanted) | _distances_of_records(students, records, again)
    for part, distance in apart.items():
        if distance > max(MAY_DIFFER, min(TIMES_ITSELF * itself[part], AT_MOST)):
            wanted.put_back()
            return records, f"a replayed step comes to other {part} than the step itself ({distance:.2g} of the change)"
    before.put_back()
    return replay(), None


class _State:
    """Copies of all that a step changes of these students, in Python and on the device.

    Args:
        students: as they are now.
    """

    def __init__(self, students: Sequence[Student]) -> None:
        self._students = students
        self.values = {part: [tensor.clone() for tensor in tensors] for part, tensors in _written(students).items()}
        self._groups = [[dict(group) for group in student.update.optimizer.param_groups] for student in students]
        self._drawn = [[state.state_dict() for state in _random_states(student)] for student in students]

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the very tensors that a recording works on, and what is counted in Python, their values of then."""
        for part, tensors in _written(self._students).items():
            for tensor, value in zip(tensors, self.values[part], strict=True):
                tensor.copy_(value)
        for student, groups, drawn in zip(self._students, self._groups, self._drawn, strict=True):
            student.update.optimizer.zero_grad()
            forget_begun_step(student.scaler)
            for group, was in zip(student.update.optimizer.param_groups, groups, strict=True):
                group.update(was)
            for state, stood in zip(_random_states(student), drawn, strict=True):
                state.return_to(stood)


def _random_states(student: Student) -> Iterator[Any]:
    yield student.random_state
    yield student.shared_random_state


def _written(students: Sequence[Student]) -> dict[str, list[Tensor]]:
    """The tensors that a step writes, by what they are."""
    found: dict[str, list[Tensor]] = {}
    for student in students:
        trained = (student.model, student.connectors)
        found[f"weights of {student.name}"] = [one for module in trained for one in module.parameters()]
        found[f"buffers of {student.name}"] = [one for module in trained for one in module.buffers()]
        known = tree_leaves([dict(state) for state in student.update.optimizer.state.values()])
        found[f"momenta of {student.name}"] = [one for one in known if isinstance(one, Tensor)]
        found[f"loss scale of {student.name}"] = scaler_tensors(student.scaler)
        if student.average is not None:
            found[f"averages of {student.name}"] = list(student.average.module.state_dict().values())
    return found


def _distances(students: Sequence[Student], before: _State, wanted: _State) -> dict[str, float]:
    """How far the students are from what is wanted, part by part, over how far that is from what was before."""
    return {
        part: _distance(before.values[part], wanted.values[part], found) for part, found in _written(students).items()
    }


def _distances_of_records(
    students: Sequence[Student], wanted: Sequence[StepRecord], found: Sequence[StepRecord]
) -> dict[str, float]:
    apart = {}
    for student, one, other in zip(students, wanted, found, strict=True):
        ours, theirs = list(one.sums.values()), list(other.sums.values())
        apart[f"losses of {student.name}"] = _distance([torch.zeros_like(value) for value in ours], ours, theirs)
    return apart


@torch.no_grad()
def _distance(before: Sequence[Tensor], wanted: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Length of (found - wanted) over that of (wanted - before); of counts 0 or infinite. 0 where it is not finite."""
    if all(map(torch.equal, wanted, found)):
        return 0.0
    numbers = [place for place, value in enumerate(wanted) if value.is_floating_point()]
    if any(not torch.equal(wanted[place], found[place]) for place in range(len(wanted)) if place not in numbers):
        return float("inf")
    off = _length([found[place].double() - wanted[place].double() for place in numbers])
    change = _length([wanted[place].double() - before[place].double() for place in numbers])
    if not torch.isfinite(change):
        return 0.0
    return float(off / change) if change > 0 else float("inf")


def _length(tensors: Sequence[Tensor]) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
    return length
