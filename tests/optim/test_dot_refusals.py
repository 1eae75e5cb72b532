import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from understudy.optim import DOT
from understudy.utils.errors import UserError


def test_a_step_without_backward_says_what_to_call() -> None:
    with pytest.raises(UserError, match=r"no gradients to step on; call optimizer.backward\(task=..., distill=...\)"):
        DOT([nn.Parameter(torch.zeros(1))]).step()


def test_a_loss_without_gradient_is_refused() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    with pytest.raises(UserError, match="the distill loss carries no gradient; pass None where there is no such loss"):
        DOT([parameter]).backward(task=parameter.sum(), distill=torch.tensor(1.0))


def test_a_loss_of_another_model_is_refused() -> None:
    parameter, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    with pytest.raises(UserError, match="the task loss reaches none of the parameters that DOT was given"):
        DOT([parameter]).backward(task=other.sum())


def test_settling_on_a_strange_parameter_is_refused() -> None:
    parameter, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    with pytest.raises(UserError, match="1 of the parameters that the distill loss reaches are not this optimizer's"):
        DOT([parameter]).settle(task=[parameter], distill=[other])


@pytest.mark.parametrize(
    ("momenta", "message"),
    [
        ({"delta": 0.2}, r"0.2 with momentum 0.9 gives 1.1; momentum \+ \|delta\| must stay below 1"),
        ({"delta": -0.1}, r"-0.1 with momentum 0.9 gives 1; momentum \+ \|delta\| must stay below 1"),
        ({"momentum": 0.1, "delta": 0.3}, r"gives -0.2; momentum - \|delta\| must not fall below 0, unless allow_neg"),
    ],
)
def test_momenta_that_cannot_be_are_refused_in_any_group(momenta: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DOT([{"params": [nn.Parameter(torch.zeros(1))], **momenta}])


def test_an_unknown_rule_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"DOT has no rule for 'adam'; take sgd, adamw, .* or lion, or update joint"):
        DOT([nn.Parameter(torch.zeros(1))], optimizer="adam")  # type: ignore[arg-type]


NAN, INF = float("nan"), float("inf")
SENSELESS = [
    ("lr", -0.1), ("lr", NAN), ("lr", INF), ("lr", "0.1"), ("momentum", -0.5), ("momentum", 1.0), ("momentum", NAN),
    ("delta", NAN), ("delta", INF), ("weight_decay", -1.0), ("weight_decay", NAN), ("dampening", 2.0),
    ("dampening", -0.1), ("beta2", 1.5), ("beta2", NAN), ("alpha", 1.0), ("eps", -1.0), ("eps", NAN), ("gain", "foo"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SENSELESS)
def test_numbers_that_cannot_be_are_refused_wherever_they_come_from(name: str, value: object) -> None:
    def parameter() -> nn.Parameter:
        return nn.Parameter(torch.ones(1))

    with pytest.raises(UserError, match=f"{name} must be .*, got {value!r}"):
        DOT([parameter()], **{name: value})
    optimizer = DOT([parameter()])
    with pytest.raises(UserError, match=f"{name} must be .*, got {value!r}"):
        optimizer.add_param_group({"params": [parameter()], name: value})
    state = optimizer.state_dict()
    with pytest.raises(UserError, match=f"{name} must be .*, got {value!r}"):
        optimizer.load_state_dict(state | {"param_groups": [state["param_groups"][0] | {name: value}]})
    held = optimizer.param_groups[0]["params"][0]
    optimizer.backward(task=held.sum())
    optimizer.param_groups[0][name] = value
    with pytest.raises(UserError, match=f"parameter group 0 at this step: {name} must be .*, got {value!r}"):
        optimizer.step()
    assert held.item() == 1


@pytest.mark.parametrize("clip_norm", [0, -1.0, NAN, INF, "1"])
def test_a_clip_norm_that_cannot_be_is_refused(clip_norm: object) -> None:
    with pytest.raises(UserError, match="clip_norm must be a finite number above 0, or None"):
        DOT([nn.Parameter(torch.zeros(1))], clip_norm=clip_norm)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="clip_norm is of all parameters together; give it to DOT"):
        DOT([{"params": [nn.Parameter(torch.zeros(1))], "clip_norm": 1.0}])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"optimizer": "adamw", "nesterov": True}, "nesterov and dampening belong to optimizer sgd, not to adamw"),
        ({"optimizer": "rmsprop", "dampening": 0.5}, "nesterov and dampening belong to optimizer sgd, not to rmsprop"),
        ({"nesterov": True, "dampening": 0.5}, "nesterov needs a momentum above 0 and no dampening"),
        ({"optimizer": "nesterov", "momentum": 0.0, "delta": 0.0}, "nesterov needs a momentum above 0"),
    ],
)
def test_settings_that_the_optimizer_would_not_read_are_refused(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        DOT([nn.Parameter(torch.zeros(1))], **settings)


def test_a_schedule_that_moves_the_momentum_too_high_is_refused_before_a_weight_moves() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = DOT([parameter], lr=0.1)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    optimizer.backward(task=parameter.sum(), distill=parameter.sum())
    with pytest.raises(UserError, match=r"0.075 with momentum 0.95 gives 1.025; .* give it cycle_momentum=False"):
        optimizer.step()
    assert parameter.item() == 1


def test_a_rate_that_runs_out_a_little_below_zero_is_no_problem() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = DOT([parameter], lr=0.1)
    optimizer.param_groups[0]["lr"] = -1e-17
    optimizer.backward(task=parameter.sum())
    optimizer.step()
    assert parameter.item() == 1


def test_the_state_of_another_optimizer_is_refused_in_words() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    with pytest.raises(
        UserError, match="this is no state of DOT: its parameter groups have no optimizer, delta, steps"
    ):
        DOT([parameter]).load_state_dict(theirs.state_dict())


def test_gradients_that_dot_does_not_read_are_warned_of_once() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = DOT([parameter], lr=0.1)
    (3 * parameter).sum().backward()
    optimizer.backward(task=parameter.sum())
    with pytest.warns(UserWarning, match=r"which DOT does not read: .* clip by DOT\(clip_norm=...\)") as caught:
        optimizer.step()
    assert [Path(warning.filename).name for warning in caught] == ["test_dot_refusals.py"]
    optimizer.backward(task=parameter.sum())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


def test_losses_of_several_numbers_are_refused() -> None:
    weight = nn.Parameter(torch.ones(3))
    with pytest.raises(UserError, match=r"the task loss must be a scalar, got shape \(3,\); take its mean"):
        DOT([weight]).backward(task=weight * 2)


@pytest.mark.parametrize("first", [0, 1])  # at 0 torch raised nothing, and the layers within were never trained
def test_reentrant_checkpoints_which_hide_parameters_are_refused(first: int) -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = DOT(network.parameters())
    images = network[:first](torch.ones(3, 4, requires_grad=True))
    logits = network[2](checkpoint(network[first:2], images, use_reentrant=True))
    with pytest.raises(UserError, match="hides the parameters within from DOT; pass use_reentrant=False"):
        optimizer.backward(task=logits.square().mean(), distill=logits.abs().mean())
    logits = network[2](checkpoint(network[first:2], network[:first](torch.ones(3, 4)), use_reentrant=False))
    optimizer.backward(task=logits.square().mean(), distill=logits.abs().mean())
    before = network[0].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(network[0].weight, before)


def test_only_a_rate_may_be_below_zero_by_rounding() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = DOT([parameter], lr=0.1)
    optimizer.param_groups[0]["lr"] = -1e-13  # where a scheduler lets it run out
    optimizer.backward(task=parameter.sum())
    optimizer.step()
    optimizer.param_groups[0]["weight_decay"] = -1e-13
    optimizer.backward(task=parameter.sum())
    with pytest.raises(UserError, match=r"parameter group 0 at this step: weight_decay must be a finite number of 0"):
        optimizer.step()
