import pytest
import torch
from torch import nn

from understudy.config import UserError
from understudy.updates import DOT


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
    with pytest.raises(UserError, match="DOT has no rule for 'adam'; take sgd or adamw, or update joint"):
        DOT([nn.Parameter(torch.zeros(1))], optimizer="adam")  # type: ignore[arg-type]
