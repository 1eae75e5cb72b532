"""A method that follows the epochs: told before the first step of each, of a resumed run too, and captured rightly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from helpers.captured_steps import captured, data, plain, trainer_of
from helpers.engine import small_net
from helpers.states import tensors_of
from understudy import Trainer, methods
from understudy.core.batch import Pairing
from understudy.methods.base import METHODS, Method, MethodConfig
from understudy.methods.kd import kd_loss
from understudy.training.spec import StudentSpec


@pytest.fixture
def rising() -> Iterator[type[Method]]:
    """KD that counts by its share of the epochs, as a method of somebody else's would have it."""

    class Rising(Method, name="rising"):
        class Config(MethodConfig):
            pass

        needs = frozenset({"teacher_logits"})
        told: list[tuple[int, int]]

        def set_epoch(self, epoch: int, num_epochs: int) -> None:
            self.share = epoch / num_epochs
            self.told = [*getattr(self, "told", []), (epoch, num_epochs)]

        def forward(self, pairing: Pairing) -> dict[str, Tensor]:
            assert pairing.teacher_logits is not None
            return {"kd": self.share * kd_loss(pairing.student_logits, pairing.teacher_logits)}

    yield Rising
    METHODS.pop("rising")


def trainer(method: type[Method]) -> Trainer:
    return trainer_of([StudentSpec(small_net(3), method=method.Config(), name="rising")])


def weights(trained: Trainer) -> dict[str, Tensor]:
    return tensors_of(trained.students[0])


def told(trained: Trainer) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = trained.students[0].methods[0].method.told  # type: ignore[assignment]
    return list(dict.fromkeys(found))


def test_it_is_told_every_epoch_and_a_resumed_run_goes_on_bit_for_bit(rising: type[Method]) -> None:
    whole, first, second = (trainer(rising) for _ in range(3))
    whole.fit(data(), epochs=3)
    assert told(whole) == [(1, 3), (2, 3), (3, 3)]
    state = None

    class Stopping:
        def stepped(self, trainer: Trainer, *, is_last: bool) -> None:
            nonlocal state
            if (trainer.epoch, trainer.step_in_epoch) == (2, 4):
                state = trainer.state_dict()
                raise KeyboardInterrupt

        def finished_epoch(self, trainer: Trainer) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        first.fit(data(), epochs=3, watcher=Stopping())
    assert state is not None
    second.load_state_dict(state)
    second.fit(data(), epochs=3)
    assert told(second) == [(2, 3), (3, 3)]
    for name, value in weights(whole).items():
        assert torch.equal(weights(second)[name], value), name


def test_steps_taken_one_by_one_have_told_it_too(rising: type[Method]) -> None:
    trained = trainer(rising)
    trained.begin(epochs=4, steps_per_epoch=9)
    assert told(trained) == [(1, 4)]


def test_a_captured_step_is_recorded_anew_in_every_epoch_of_it_and_of_no_other(rising: type[Method]) -> None:
    ends = []
    for take in (plain, captured):
        trained = trainer(rising)
        take(trained)
        trained.fit(data(), epochs=3)
        trained.fit(data(), epochs=4)
        ends.append(trained)
    assert ends[1]._captured.num_recordings == 4
    for name, value in weights(ends[0]).items():
        assert torch.equal(weights(ends[1])[name], value), name
    other = trainer_of([StudentSpec(small_net(3), method=methods.KD.Config(), name="kd")])
    captured(other)
    other.fit(data(), epochs=3)
    assert other._captured.num_recordings == 1
