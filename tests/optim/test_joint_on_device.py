"""Joint's NAdam, RMSprop and Lion by numbers on the device: the steps of torch and timm, and their checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.pretended_cuda import CUDA, pretended_cuda
from understudy.core.batch import Losses
from understudy.optim import Joint
from understudy.optim.device_numbers import DeviceNumbers

CPU = torch.device("cpu")
SETTINGS: dict[str, dict[str, Any]] = {
    "nadam": {"optimizer": "nadam", "beta2": 0.95, "eps": 1e-6},
    "rmsprop": {"optimizer": "rmsprop", "eps": 1e-3},
    "rmsprop without momentum": {"optimizer": "rmsprop", "momentum": 0.0, "eps": 1e-3},
    "rmsprop_tf": {"optimizer": "rmsprop_tf", "eps": 1e-3},
    "rmsprop_tf without momentum": {"optimizer": "rmsprop_tf", "momentum": 0.0, "eps": 1e-3},
    "lion": {"optimizer": "lion"},
}
# torch keeps NAdam's product of momenta in 32 bits.
TOLERANCE = {"nadam": 1e-6}


class Late(nn.Module):
    """Two layers, the second of which is passed by in the first steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4).double(), nn.Linear(4, 3).double()

    def forward(self, step: int) -> Tensor:
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        hidden = self.first(inputs).tanh()
        return (self.second(hidden) if step not in (0, 1, 4) else hidden).square().mean()


def joint(model: nn.Module, name: str, *, on_device: bool) -> Joint:
    config = Joint.Config(lr=0.01, weight_decay=0.1, clip_norm=0.5, decay_norm_and_bias=False, **SETTINGS[name])
    update = config.build(model.named_parameters())
    assert update.capture_problem() is None
    if on_device:
        update.prepare_capture(CPU)
    return update


def steps(model: Late, update: Joint, which: range) -> None:
    for step in which:
        update.set_lr_factor(0.8**step)
        update.begin_step()
        update(Losses(task=model(step), distill=None, terms={}))


def assert_close(name: str, ours: object, theirs: object) -> None:
    tolerance = TOLERANCE.get(name, 1e-12)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_are_those_of_torch_and_timm(name: str) -> None:
    ours, theirs = Late(), Late()
    updates = joint(ours, name, on_device=True), joint(theirs, name, on_device=False)
    for model, update in zip((ours, theirs), updates, strict=True):
        steps(model, update, range(8))
    assert_close(name, ours.state_dict(), theirs.state_dict())
    mine, other = (update.state_dict() for update in updates)
    assert mine["state"].keys() == other["state"].keys()
    for number, state in other["state"].items():
        assert_close(name, mine["state"][number], state)
        assert {key: value.dtype for key, value in mine["state"][number].items()} == {
            key: value.dtype for key, value in state.items()
        }
    assert mine["param_groups"] == other["param_groups"]


@pytest.mark.parametrize(("before", "after"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_goes_on_either_way(name: str, before: bool, after: bool) -> None:
    whole, parted = Late(), Late()
    steps(whole, joint(whole, name, on_device=after), range(8))
    begun, other = joint(parted, name, on_device=before), joint(parted, name, on_device=after)
    steps(parted, begun, range(5))
    steps_of_nobody = other.state_dict()
    assert steps_of_nobody["state"] == {}
    other.load_state_dict(begun.state_dict())
    steps(parted, other, range(5, 8))
    if before == after:
        assert all(torch.equal(parted.state_dict()[key], value) for key, value in whole.state_dict().items())
    assert_close(name, parted.state_dict(), whole.state_dict())


@pytest.mark.parametrize("name", ["nadam", "rmsprop_tf"])
def test_a_step_that_a_scaler_skips_is_none(name: str) -> None:
    ours, theirs = Late().float(), Late().float()
    for model, on_device in ((ours, True), (theirs, False)):
        update = joint(model, name, on_device=on_device)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for step, factor in enumerate((1.0, float("inf"), 1.0)):
            update.begin_step()
            loss = model.second(model.first(torch.ones(2, 4))).square().mean() * factor
            update.accumulate(Losses(task=loss, distill=None, terms={}), scaler=scaler)
            update.step()
            scaler.update()
            ages = {int(state["step"]) for state in update.state_dict()["state"].values()}
            assert ages == {(1, 1, 2)[step]}
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)


def test_numbers_are_not_set_while_a_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_cuda():
        numbers = DeviceNumbers(["rate"], device=CUDA, dtype=torch.float32)
        numbers.set({"rate": 0.5})
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with pytest.raises(RuntimeError, match="has changed while it was recorded"):
            numbers.set({"rate": 0.25})
        assert float(numbers.tensors["rate"]) == 0.5
