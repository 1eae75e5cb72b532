import pytest
import torch
from torch import nn

from understudy.optim import DOT


def stepped(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, task: torch.Tensor, distill: torch.Tensor):
    """The parameter after one step per row of gradients, by DOT or by an optimizer of torch on the sum."""
    for g_task, g_distill in zip(task, distill, strict=True):
        if isinstance(optimizer, DOT):
            optimizer.backward(task=(parameter * g_task).sum(), distill=(parameter * g_distill).sum())
        else:
            parameter.grad = g_task + g_distill
        optimizer.step()
    return parameter.detach()


@pytest.fixture
def gradients() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    task, distill = torch.randn(2, 6, 4, dtype=torch.float64)
    return task, distill


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.linspace(-1, 1, 4, dtype=torch.float64))


@pytest.mark.parametrize("gain", ["heavy_ball", "ema"])
def test_dot_equals_adamw_on_the_sum_when_delta_is_zero(gain, gradients) -> None:
    ours, theirs = parameter(), parameter()
    dot = DOT([ours], lr=0.01, delta=0.0, weight_decay=0.1, optimizer="adamw", gain=gain)
    adamw = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.999), weight_decay=0.1)
    torch.testing.assert_close(stepped(dot, ours, *gradients), stepped(adamw, theirs, *gradients), rtol=1e-12, atol=0)


def test_dot_equals_adamw_where_nothing_is_distilled(gradients) -> None:
    ours, theirs = parameter(), parameter()
    dot = DOT([ours], lr=0.01, weight_decay=0.1, optimizer="adamw")
    adamw = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    for gradient in gradients[0]:
        dot.backward(task=(ours * gradient).sum())
        dot.step()
        theirs.grad = gradient
        adamw.step()
    torch.testing.assert_close(ours.data, theirs.data, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("gain", "weights"), [("ema", (1.0, 1.0)), ("heavy_ball", (0.5 / 0.75, 0.5 / 0.25))])
def test_each_first_moment_is_weighed_by_its_gain(gain, weights, gradients) -> None:
    moved = parameter()
    optimizer = DOT([moved], lr=0.01, momentum=0.5, delta=0.25, optimizer="adamw", gain=gain, beta2=0.9, eps=1e-6)
    stepped(optimizer, moved, *gradients)

    expected, square = parameter().detach(), torch.zeros(4, dtype=torch.float64)
    moments, betas = [torch.zeros(4, dtype=torch.float64)] * 2, (0.25, 0.75)
    for age, pair in enumerate(zip(*gradients, strict=True), start=1):
        square = 0.9 * square + 0.1 * sum(pair) ** 2
        moments = [beta * m + (1 - beta) * g for beta, m, g in zip(betas, moments, pair, strict=True)]
        hats = [w * m / (1 - b**age) for w, m, b in zip(weights, moments, betas, strict=True)]
        expected = expected - 0.01 * sum(hats) / ((square / (1 - 0.9**age)).sqrt() + 1e-6)
    torch.testing.assert_close(moved.data, expected, rtol=1e-12, atol=0)


def test_under_a_constant_gradient_heavy_ball_ends_at_the_same_ratio_of_the_losses_as_sgd() -> None:
    """DOT's SGD weighs the losses 1 / (1 - mu + delta) to 1 / (1 - mu - delta) in the long run: 1 to 7 here."""
    ratios = []
    for optimizer in ("sgd", "adamw"):
        task, distill = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        both = DOT([task, distill], lr=1e-3, delta=0.075, optimizer=optimizer)
        for _ in range(400):
            # The other loss reaches each of them too, with a gradient of zero.
            both.backward(task=(task + 0 * distill).sum(), distill=(distill + 0 * task).sum())
            before = task.item(), distill.item()
            both.step()
        ratios.append((distill.item() - before[1]) / (task.item() - before[0]))
    assert ratios == pytest.approx([7.0, 7.0], rel=0.01)


def test_adamw_resumes_bit_for_bit(gradients) -> None:
    task, distill = gradients
    whole, resumed = parameter(), parameter()
    settings = {"lr": 0.01, "weight_decay": 0.1, "optimizer": "adamw"}
    expected = stepped(DOT([whole], **settings), whole, task, distill)
    begun = DOT([resumed], **settings)
    stepped(begun, resumed, task[:3], distill[:3])
    continued = DOT([resumed], **settings)
    continued.load_state_dict(begun.state_dict())
    assert torch.equal(stepped(continued, resumed, task[3:], distill[3:]), expected)


def test_a_parameter_that_the_first_distillation_reaches_late_is_stepped_as_by_adamw_begun_then(gradients) -> None:
    first, late, theirs = parameter(), parameter(), parameter()
    dot = DOT([first, late], lr=0.01, delta=0.0, optimizer="adamw")
    adamw = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.999), weight_decay=0.0)
    for step, gradient in enumerate(gradients[0]):
        distill = None if step < 3 else (late * gradient).sum()
        dot.backward(task=(first * gradient).sum(), distill=distill)
        dot.step()
        if distill is not None:
            theirs.grad = gradient
            adamw.step()
    torch.testing.assert_close(late.detach(), theirs.detach(), rtol=1e-12, atol=0)
