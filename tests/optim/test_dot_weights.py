"""DOT's weights without its memory, and DOT whose delta rises."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.engine import tiny_recipe
from understudy.core.batch import Losses
from understudy.optim import DOT, UPDATES, Joint
from understudy.optim.dot.weights import steady_gains
from understudy.recipes.comparison import rows_of
from understudy.utils.errors import UserError


def test_a_gradient_that_stays_moves_dot_by_the_gains_in_the_long_run() -> None:
    ends = {}
    for delta in (0.0, 0.075):
        parameter = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        optimizer = DOT([parameter], lr=1e-3, momentum=0.9, delta=delta)
        places = []
        for _ in range(2000):
            optimizer.backward(task=parameter[0] + 0 * parameter[1], distill=parameter[1] + 0 * parameter[0])
            optimizer.step()
            places.append(parameter.detach().clone())
        ends[delta] = places[-1] - places[-2]
    assert (ends[0.075] / ends[0.0]).tolist() == pytest.approx(steady_gains(0.9, 0.075), rel=1e-6)
    assert steady_gains(0.9, 0.075) == pytest.approx((0.1 / 0.175, 4.0))


def test_a_step_is_joints_on_the_weighted_losses() -> None:
    ours, theirs = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    update = UPDATES["dot_weights"].Config(lr=0.1, delta=0.05).build([("weight", ours)])
    joint = Joint.Config(lr=0.1).build([("weight", theirs)])
    for _ in range(3):
        update(Losses(task=(ours**2).sum(), distill=ours.sum(), terms={}))
        joint(Losses(task=0.1 / 0.15 * (theirs**2).sum(), distill=2.0 * theirs.sum(), terms={}))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_a_row_names_it_and_says_the_weights() -> None:
    row = rows_of(tiny_recipe({"rows": ["kd+dot_weights"]}))[0]
    assert row.update.in_words() == "dot_weights (sgd, lr 0.05, momentum 0.9, task x 0.571, distill x 4)"
    with pytest.raises(UserError, match=r"dot_weights needs something to distil, such as kd\+dot_weights"):
        rows_of(tiny_recipe({"rows": ["alone+dot_weights"]}))


def test_a_delta_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"momentum \+ \|delta\| must stay below 1, got 0.1"):
        UPDATES["dot_weights"].Config(delta=0.1)


def test_delta_rises_in_a_straight_line() -> None:
    rising, plain = (nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(2))
    warming = DOT([rising], lr=0.1, momentum=0.9, delta=0.08, delta_warmup=4)
    p, v = torch.zeros(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    for step in range(7):
        gradient = torch.tensor([[1.0, 0.5], [-0.25, 2.0]], dtype=torch.float64) * (1 + step)
        warming.backward(task=(rising * gradient[0]).sum(), distill=(rising * gradient[1]).sum())
        warming.step()
        delta = 0.08 * min(step / 4, 1.0)
        v = torch.tensor([[0.9 - delta], [0.9 + delta]]) * v + gradient
        p = p - 0.1 * v.sum(0)
    torch.testing.assert_close(rising.detach(), p, rtol=1e-7, atol=0)
    with pytest.raises(UserError, match="delta_warmup must be a whole number of steps, 0 or more, got -1"):
        DOT([plain], delta_warmup=-1)


def test_a_state_of_before_has_no_warm_up() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    state = DOT([parameter]).state_dict()
    for group in state["param_groups"]:
        del group["delta_warmup"]
    again = DOT([parameter], delta_warmup=5)
    again.load_state_dict(state)
    again.backward(task=parameter.sum(), distill=parameter.sum())
    again.step()
    assert again.param_groups[0]["delta_warmup"] == 0


def test_a_short_run_is_told_of_dots_memory() -> None:
    config = UPDATES["dot"].Config()
    assert config.length_note(2_000) is None
    note = config.length_note(600)
    assert note is not None
    assert note.startswith("DOT's longer memory is 40 steps, and 600 steps are 15 of them; in runs of fewer than about")
    assert Joint.Config().length_note(10) is None
