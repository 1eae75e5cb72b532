import pytest
import torch
from torch import nn

from understudy.optim import DOT


def scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)


@pytest.mark.parametrize("by_the_scaler", [True, False], ids=["scaler.step(optimizer)", "optimizer.step()"])
def test_a_scaled_run_equals_an_unscaled_one(by_the_scaler: bool) -> None:
    scaled, plain = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    with_scaler, without = (DOT([p], lr=0.01, weight_decay=0.1, clip_norm=2.0) for p in (scaled, plain))
    grad_scaler = scaler()
    for _ in range(4):
        for _ in range(2):  # micro-batches
            with_scaler.backward(task=(scaled**2).sum(), distill=(3 * scaled).sum(), scaler=grad_scaler)
            without.backward(task=(plain**2).sum(), distill=(3 * plain).sum())
        if by_the_scaler:
            grad_scaler.step(with_scaler)
        else:
            with_scaler.step()
        grad_scaler.update()
        without.step()
    assert torch.equal(scaled, plain)  # a scale of 2^10 costs no bits
    assert grad_scaler.get_scale() == 1024


@pytest.mark.parametrize("overflowing", ["task", "distill"])
def test_an_overflow_in_either_loss_skips_both_and_halves_the_scale(overflowing: str) -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer, grad_scaler = DOT([parameter], lr=0.01), scaler()
    losses = {"task": parameter.sum(), "distill": parameter.sum()}
    optimizer.backward(**losses, scaler=grad_scaler)
    grad_scaler.step(optimizer)
    grad_scaler.update()
    before, momenta = parameter.detach().clone(), {k: v.clone() for k, v in optimizer.state[parameter].items()}

    losses = {"task": parameter.sum(), "distill": parameter.sum()} | {overflowing: (parameter * 1e38).sum()}
    optimizer.backward(**losses, scaler=grad_scaler)
    grad_scaler.step(optimizer)
    grad_scaler.update()

    assert torch.equal(parameter, before)
    assert all(torch.equal(optimizer.state[parameter][key], value) for key, value in momenta.items())
    assert grad_scaler.get_scale() == 512
    assert optimizer.gradients == {}


def test_a_disabled_scaler_changes_nothing() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer, grad_scaler = DOT([parameter], lr=0.5), torch.amp.GradScaler("cpu", enabled=False)
    optimizer.backward(task=parameter.sum(), scaler=grad_scaler)
    grad_scaler.step(optimizer)
    grad_scaler.update()
    assert parameter.item() == 0.5


@pytest.mark.parametrize(
    "settings", [{}, {"nesterov": True}, {"momentum": 0.8, "delta": -0.1, "clip_norm": 1.0}], ids=str
)
def test_skipping_on_the_device_is_skipping_by_the_scaler(settings: dict[str, object]) -> None:
    """Two parameters that both losses reach, and one of each; the second and the fourth step overflow.

    A fifth has channels last, and a gradient that has not.
    """
    ends, images = [], torch.rand(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for on_device in (False, True):
        weights = [nn.Parameter(torch.linspace(-1, 1, 4, dtype=torch.float64) * scale) for scale in (1, 2, 3, 4)]
        weights.append(nn.Parameter(images.contiguous(memory_format=torch.channels_last)))
        optimizer, grad_scaler = DOT(weights, lr=0.01, weight_decay=0.1, **settings), scaler()  # type: ignore[arg-type]
        assert optimizer.skip_problem() is None
        if on_device:
            optimizer.prepare_capture(torch.device("cpu"))
        for step in range(6):
            optimizer.begin_step()
            factor = float("inf") if step in (1, 3) else 1.0 + step
            task = (weights[0] * weights[1]).sum() + (weights[2] ** 2).sum()
            task = task + (weights[4] * images).sum()
            distill = (weights[0] ** 3 * weights[1]).sum() + weights[3].sum()
            optimizer.backward(task=task, distill=distill * factor, scaler=grad_scaler)
            optimizer.step()
            grad_scaler.update()
        assert grad_scaler.get_scale() == 256
        momenta = [value for p in weights for name, value in optimizer.state[p].items() if name.startswith("momentum")]
        ends.append([*(p.detach() for p in weights), *momenta])
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-12, atol=1e-14)
