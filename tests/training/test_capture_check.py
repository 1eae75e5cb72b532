"""Replays that do not do what the step does are found out before they are relied on, and the step stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.captured_steps import captured, data, plain, specs_of, trainer_of
from helpers.engine import SmallNet, small_net
from helpers.recorded_ops import recorded_ops
from helpers.states import differing, flat, tensors_of
from understudy import UserError, methods
from understudy.optim.schedule import Schedule
from understudy.training import capture, capture_check
from understudy.training.capture import CapturedSteps
from understudy.training.spec import StudentSpec


class CountingNet(SmallNet):
    """Every second step counts half, which its own count in Python decides."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.num_passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.num_passes += self.training
        return super().forward(images) * (0.5 if self.num_passes % 2 else 1.0)


def counting() -> list[StudentSpec]:
    network = CountingNet()
    network.load_state_dict(small_net(3).state_dict())
    return [*specs_of(["kd+dot"]), StudentSpec(network, method=methods.KD.Config(), name="counting")]


def test_a_network_that_counts_in_python_is_found_out_and_the_step_stands() -> None:
    said: list[str] = []
    trainer = trainer_of(counting())
    steps = captured(trainer, must=False, say=said.append)
    trainer.fit(data(), epochs=1)
    assert (steps.num_recordings, steps.num_replays) == (1, 1)
    assert len(said) == 1
    assert said[0].startswith(
        "steps are not captured as a CUDA graph: a replayed step comes to other weights of counting"
    )
    assert trainer.students[1].model.module.num_passes == 9 + 1 + 1  # the dry pass of the build, and twice one step


def test_what_stands_beside_it_is_the_step_as_it_comes() -> None:
    ends = [trainer_of(specs_of(["kd", "kd+dot"], schedule=Schedule(name="constant"))) for _ in range(2)]
    plain(ends[0])
    captured(ends[1], must=False)._record = without_update
    for trainer in ends:
        trainer.fit(data(), epochs=2)
    assert ends[1]._captured.problem is not None
    for ours, theirs in zip(*(trainer.students for trainer in ends), strict=True):
        assert differing(flat(ours.state_dict()), flat(theirs.state_dict())) == []
    assert ends[0].history == ends[1].history


def without_update(step: Callable[[], Any], drawn_from: Sequence[Any]) -> tuple[Any, Callable[[], None]]:
    """Records a step, and forgets what it does at its end."""
    outputs, replay = recorded_ops(step, drawn_from)
    calls = replay.__self__.calls  # type: ignore[attr-defined]
    del calls[len(calls) * 9 // 10 :]
    return outputs, replay


def test_a_capture_that_must_be_is_refused_by_what_differs() -> None:
    trainer = trainer_of(counting())
    captured(trainer)
    with pytest.raises(UserError, match="capture: true cannot be: a replayed step comes to other"):
        trainer.fit(data(), epochs=1)


def test_a_rate_that_no_longer_falls_is_found_out_in_a_later_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "REPLAYS_BETWEEN_CHECKS", 5)
    trainer = trainer_of(specs_of(["kd"], schedule=Schedule(name="cosine")))
    steps = trainer._captured = CapturedSteps(trainer, record=recorded_ops, must=False, say=print)
    trainer.fit(data(), epochs=6)  # without prepare_capture: the rate of the recorded step is a number in it
    assert steps.problem is not None
    assert "weights of kd" in steps.problem
    assert 5 < steps.num_replays < 6 * 8


def test_a_step_is_checked_again_after_many_replays_and_in_another_epoch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[int, int]] = []
    whole = capture.checked_replay

    def looking(*arguments: Any) -> Any:
        looked.append((trainer.epoch, steps.num_replays))
        return whole(*arguments)

    monkeypatch.setattr(capture, "checked_replay", looking)
    monkeypatch.setattr(capture, "REPLAYS_BETWEEN_CHECKS", 6)
    trainer = trainer_of(specs_of(["kd"]))
    steps = captured(trainer)
    trainer.fit(data(), epochs=4)  # 4 replays in the first epoch, 8 in each that follows
    assert steps.problem is None
    assert looked == [(1, 1), (2, 7), (3, 13), (4, 21)]


@pytest.mark.parametrize(("size", "is_taken"), [(0.03, True), (10.0, False)])
def test_a_step_that_differs_from_itself_a_little_may_differ_from_its_replay(size: float, is_taken: bool) -> None:
    """As where kernels add up in no fixed order: here, other noise in the weights at each step."""
    trainer = trainer_of(specs_of(["kd"]))
    noise = np.random.default_rng(0)
    whole = trainer.replayable_step

    def noisy(batch: Any) -> Any:
        parameters = list(trainer.students[0].model.parameters())
        before = [parameter.detach().clone() for parameter in parameters]
        records = whole(batch)
        with torch.no_grad():
            for parameter, was in zip(parameters, before, strict=True):
                by_chance = torch.from_numpy(noise.normal(size=parameter.shape)).float()
                parameter.add_(by_chance * (parameter - was).norm() * size / parameter.numel() ** 0.5)
        return records

    trainer.replayable_step = noisy  # type: ignore[method-assign]
    steps = captured(trainer, must=False)
    trainer.fit(data(), epochs=1)
    assert (steps.problem is None) == is_taken
    assert steps.num_replays == (4 if is_taken else 1)


def test_memory_that_does_not_suffice_for_a_second_state_leaves_the_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = [trainer_of(specs_of(["kd", "kd+dot"])) for _ in range(3)]
    plain(ends[0])
    asked = []

    class Short(capture_check._State):
        def __init__(self, students: Any) -> None:
            asked.append(students)
            if len(asked) in (1, 3):  # before the step of one trainer, after the step of the other
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().__init__(students)

    monkeypatch.setattr(capture_check, "_State", Short)
    for trainer in ends:
        if trainer is not ends[0]:
            captured(trainer)
        trainer.fit(data(), epochs=1)
    assert len(asked) == 3
    for trainer in ends[1:]:
        assert trainer._captured.num_replays == 4
        for ours, theirs in zip(ends[0].students, trainer.students, strict=True):
            assert differing(tensors_of(ours), tensors_of(theirs)) == []


def test_distances() -> None:
    before, wanted = [torch.zeros(4), torch.tensor(3)], [torch.full((4,), 2.0), torch.tensor(4)]
    assert capture_check._distance(before, wanted, wanted) == 0
    assert capture_check._distance(before, wanted, [torch.full((4,), 2.5), torch.tensor(4)]) == 0.25
    assert capture_check._distance(before, wanted, [torch.full((4,), 2.0), torch.tensor(3)]) == float("inf")
    assert capture_check._distance(before, before, [torch.ones(4), torch.tensor(3)]) == float("inf")
    assert capture_check._distance(before, [torch.full((4,), torch.nan), torch.tensor(4)], wanted) == 0
