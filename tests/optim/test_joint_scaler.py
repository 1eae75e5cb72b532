"""Joint under a GradScaler, and gradients that add up over several backward passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from understudy.core.batch import Losses
from understudy.optim import Joint


def update_of(weight: nn.Parameter, **settings: object) -> Joint:
    return Joint.Config(lr=0.1, momentum=0.9, weight_decay=0.0, **settings).build([("weight", weight)])  # type: ignore[arg-type]


def test_a_first_step_that_the_scaler_skips_leaves_the_next_one_whole() -> None:
    """torch's fused SGD took uninitialised memory for its momenta then; biases became NaN a few steps later."""
    weight = nn.Parameter(torch.ones(3))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    update = update_of(weight)
    for loss in ((weight * float("inf")).sum(), (weight * 2).sum()):
        update.accumulate(Losses(loss, None, {}), scaler=scaler)
        update.step()
        scaler.update()
        state = update.optimizer.state[weight]
    assert torch.equal(state["momentum_buffer"], torch.full((3,), 2.0))
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.8))


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_scaled_steps_equal_plain_ones(clip_norm: float | None) -> None:
    plain, scaled = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for weight, given in ((plain, None), (scaled, scaler)):
        update = update_of(weight, clip_norm=clip_norm)
        for _ in range(3):
            update.accumulate(Losses((weight**2).sum(), (weight * 3).sum(), {}), scaler=given)
            update.step()
            if given is not None:
                given.update()
    torch.testing.assert_close(scaled.detach(), plain.detach())


def test_gradients_of_several_passes_add_up() -> None:
    once, twice = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    whole, halves = update_of(once), update_of(twice)
    whole(Losses((once**2).sum(), once.sum(), {}))
    halves.accumulate(Losses((twice**2).sum(), None, {}))
    halves.accumulate(Losses(twice.sum(), None, {}))
    halves.step()
    assert torch.equal(once, twice)
