from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from understudy.optim import DOT


def reference(gradients: list[Tensor], start: Tensor, *, lr: float, momentum: float, decay: float) -> Tensor:
    """torch's SGD, fed these gradients."""
    parameter = nn.Parameter(start.clone())
    sgd = torch.optim.SGD([parameter], lr=lr, momentum=momentum, weight_decay=decay)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        sgd.step()
    return parameter.data


def test_shared_task_only_and_distill_only_parameters_follow_the_rule_worked_out_by_hand() -> None:
    shared, task_only, distill_only = (nn.Parameter(torch.tensor(1.0, dtype=torch.float64)) for _ in range(3))
    optimizer = DOT([shared, task_only, distill_only], lr=0.1, momentum=0.5, delta=0.25, weight_decay=0.1)
    for _ in range(2):
        optimizer.backward(task=2 * shared + 3 * task_only, distill=4 * shared + 5 * distill_only)
        optimizer.step()
    # shared: v_t = 2.1, v_d = 4, p = 0.39; then v_t = 0.25 * 2.1 + 2 + 0.039, v_d = 0.75 * 4 + 4
    assert shared.item() == pytest.approx(0.39 - 0.1 * (2.564 + 7.0), abs=1e-12)
    # one loss only, momentum 0.5: v = 3.1, p = 0.69; then v = 0.5 * 3.1 + 3 + 0.069
    assert task_only.item() == pytest.approx(0.69 - 0.1 * 4.619, abs=1e-12)
    # v = 5.1, p = 0.49; then v = 0.5 * 5.1 + 5 + 0.049: decayed from the first step on
    assert distill_only.item() == pytest.approx(0.49 - 0.1 * 7.599, abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    momentum=st.floats(0.3, 0.7), delta=st.floats(-0.25, 0.25), decay=st.floats(0, 0.1), seed=st.integers(0, 2**31 - 1)
)
def test_a_shared_parameter_moves_by_the_sum_of_two_sgds_of_different_momentum(
    momentum: float, delta: float, decay: float, seed: int
) -> None:
    torch.manual_seed(seed)
    start = torch.zeros(3, dtype=torch.float64)
    task, distill = torch.randn(2, 5, 3, dtype=torch.float64)
    shared = nn.Parameter(start.clone())
    optimizer = DOT([shared], lr=0.1, momentum=momentum, delta=delta, weight_decay=decay)
    decayed = []
    for g_task, g_distill in zip(task, distill, strict=True):
        decayed.append(g_task + decay * shared.detach())
        optimizer.backward(task=(shared * g_task).sum(), distill=(shared * g_distill).sum())
        optimizer.step()
    expected = reference(decayed, start, lr=0.1, momentum=momentum - delta, decay=0.0)
    expected = expected + reference(list(distill), start, lr=0.1, momentum=momentum + delta, decay=0.0)
    torch.testing.assert_close(shared.data, expected, rtol=1e-10, atol=1e-12)


def test_negative_delta_exchanges_the_two_losses() -> None:
    positive, negative = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    plus, minus = DOT([positive], lr=0.1, delta=0.075), DOT([negative], lr=0.1, delta=-0.075)
    for _ in range(3):
        plus.backward(task=positive.sum(), distill=(3 * positive).sum())
        plus.step()
        minus.backward(task=(3 * negative).sum(), distill=negative.sum())
        minus.step()
    torch.testing.assert_close(positive, negative)


def test_parameters_for_which_autograd_returns_one_and_the_same_gradient_are_each_decayed_once() -> None:
    left, right = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = DOT([left, right], lr=1.0, momentum=0.0, delta=0.0, weight_decay=0.5, clip_norm=100.0)
    optimizer.backward(task=(left + right).sum())
    optimizer.step()
    assert left.tolist() == right.tolist() == [-0.5, -0.5]


def test_clipping_goes_by_the_norm_of_the_sum_and_scales_both_losses() -> None:
    shared, task_only = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = DOT([shared, task_only], lr=1.0, momentum=0.5, delta=0.25, clip_norm=1.0)
    optimizer.backward(task=-3 * shared + 4 * task_only, distill=6 * shared)  # the sum is (3, 4): norm 5
    optimizer.step()
    state = optimizer.state[shared]
    found = [state["momentum_task"].item(), state["momentum_distill"].item(), task_only.item()]
    assert found == pytest.approx([-3 / 5, 6 / 5, -4 / 5], rel=1e-5)


def test_a_short_gradient_is_not_clipped() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = DOT([parameter], lr=1.0, clip_norm=10.0)
    optimizer.backward(task=3 * parameter)
    optimizer.step()
    assert parameter.item() == -3


def test_each_group_has_its_own_settings() -> None:
    slow, fast = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    groups = [
        {"params": [slow], "lr": 0.1, "momentum": 0.5, "delta": 0.25, "weight_decay": 1.0},
        {"params": [fast], "lr": 1.0},
    ]
    optimizer = DOT(groups, momentum=0.0, delta=0.0)
    for _ in range(2):
        optimizer.backward(task=(slow + fast).sum(), distill=(slow + fast).sum())
        optimizer.step()
    # slow: v = 2, 1, p = 0.7; then v = 0.5 + 1.7, 0.75 + 1
    assert slow.item() == pytest.approx(0.7 - 0.1 * 3.95)
    assert fast.item() == pytest.approx(1 - 2 - 2)


def test_a_group_that_is_added_later_learns_which_losses_reach_it() -> None:
    early, late = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = DOT([early], lr=1.0)
    optimizer.backward(task=early.sum(), distill=early.sum())
    optimizer.step()
    optimizer.add_param_group({"params": [late]})
    optimizer.backward(task=early.sum(), distill=(early + late).sum())
    optimizer.step()
    assert [parameter is late for parameter in optimizer.reached("distill")] == [False, True]
    assert late.item() == -1


def test_any_scheduler_of_torch_drives_the_learning_rate() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = DOT([parameter], lr=1.0, momentum=0.0, delta=0.0)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 2], gamma=0.1)
    for _ in range(3):
        optimizer.backward(task=parameter.sum())
        optimizer.step()
        scheduler.step()
    assert parameter.item() == pytest.approx(-1.11)


def test_the_learning_rate_factor_is_of_each_groups_initial_rate() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = DOT(groups)
    for factor in (0.5, 0.2):
        optimizer.set_lr_factor(factor)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.02])


def test_a_closure_is_evaluated_with_gradient_and_its_value_returned() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = DOT([parameter], lr=0.5)

    def closure() -> float:
        loss = (2 * parameter).sum()
        optimizer.backward(task=loss)
        return loss.item()

    assert optimizer.step(closure) == 2
    assert parameter.item() == 0


def test_a_negative_momentum_is_possible_where_it_is_allowed() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = DOT([parameter], lr=1.0, momentum=0.0, delta=0.5, allow_negative_momentum=True)
    for _ in range(2):
        optimizer.backward(task=parameter.sum(), distill=parameter.sum())
        optimizer.step()
    assert parameter.item() == pytest.approx(-2 - (1 - 0.5) - (1 + 0.5))


def test_the_first_step_is_none_that_later_ones_replay() -> None:
    """The first takes the whole gradient, later ones 1 - dampening of it: a captured graph must know them apart."""
    parameter = nn.Parameter(torch.ones(1))
    optimizer = DOT([parameter], lr=0.1, dampening=0.5)
    optimizer.settle(task=[parameter], distill=[parameter])
    baked_in = []
    for _ in range(3):
        baked_in.append(optimizer.baked_in())
        optimizer.backward(task=parameter.sum(), distill=parameter.sum())
        optimizer.step()
    assert baked_in[0] != baked_in[1] == baked_in[2]


@pytest.mark.parametrize("column", [0, 1], ids=["task", "distill, which was said to reach nothing"])
def test_what_the_loss_of_another_process_reaches_is_reached_here(column: int) -> None:
    mine, others = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = DOT([mine, others], lr=1.0, momentum=0.0, delta=0.0)

    def add_up(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """With a process whose loss reaches the second parameter alone, by a gradient of 3."""
        if tensors[0].shape == (2, 2):  # who is reached: a row for each parameter, a column for each loss
            return [tensors[0] + torch.eye(2)[column] * torch.tensor([[0.0], [1.0]])]
        return [tensor + 3 * (tensor == 0) for tensor in tensors]  # zeros: what this process does not reach

    optimizer.add_up = add_up
    if column == 1:
        optimizer.settle(task=[mine], distill=[])
    optimizer.backward(task=2 * mine)
    optimizer.step()
    assert (mine.item(), others.item()) == (-1, -2)
    assert [others] == optimizer.reached(("task", "distill")[column])[-1:]
