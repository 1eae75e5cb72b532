"""CTKD: the temperature, its reversed gradient, and the curriculum."""

import pytest
import torch
from torch import Tensor

from helpers.captured_steps import captured, data, plain, trainer_of
from helpers.engine import small_net
from helpers.examples import built
from helpers.states import tensors_of
from helpers.whole_networks import whole_context
from understudy import DOT
from understudy.core.batch import Pairing
from understudy.methods.ctkd import CTKD, ctkd_loss, reversal_in, with_reversed_gradient
from understudy.methods.kd import kd_loss
from understudy.training.spec import StudentSpec


def logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher


def test_the_value_and_the_students_gradient_are_kds_at_that_temperature() -> None:
    student, teacher = logits()
    parameter = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    ours = ctkd_loss(student, teacher, parameter, lowest=2.0, span=10.0, reversal=0.5)
    theirs = kd_loss(student, teacher, temperature=float(2 + 10 * parameter.detach().sigmoid()))
    assert ours.shape == ()
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (ours, theirs)), rtol=1e-12, atol=1e-14
    )


def test_the_temperature_climbs_the_loss_that_the_student_descends() -> None:
    student, teacher = logits()
    parameter = torch.tensor(0.3, dtype=torch.float64)
    step = 1e-6
    slope = (ctkd_loss(student, teacher, parameter + step) - ctkd_loss(student, teacher, parameter - step)) / (2 * step)
    parameter.requires_grad_()
    (gradient,) = torch.autograd.grad(ctkd_loss(student, teacher, parameter, reversal=0.25), parameter)
    torch.testing.assert_close(gradient, -0.25 * slope.detach(), rtol=1e-6, atol=1e-9)


def test_reversing_changes_no_bit_of_the_value() -> None:
    value = torch.randn(1000, generator=torch.Generator().manual_seed(1), requires_grad=True)
    found = with_reversed_gradient(value, 0.7)
    assert torch.equal(found, value)
    (gradient,) = torch.autograd.grad(found.sum(), value)
    assert torch.equal(gradient, torch.full_like(value, -0.7))


def test_lambda_rises_by_half_a_cosine_and_stays() -> None:
    assert [reversal_in(epoch, 10) for epoch in (0, 5, 10, 11, 240)] == pytest.approx([0, 0.5, 1, 1, 1])
    assert reversal_in(3, 10) == pytest.approx(0.2061073738537635)


def test_the_method_follows_the_epochs_and_ends_where_none_are_told() -> None:
    student, teacher = logits()
    method = built("ctkd", whole_context()).double()
    assert isinstance(method, CTKD)
    pairing = Pairing(student, teacher, torch.zeros(5, dtype=torch.long))

    def gradient() -> Tensor:
        (loss,) = method(pairing).values()
        return torch.autograd.grad(loss, method.temperature_parameter)[0]

    last = gradient()
    for epoch in (1, 5, 10, 100):
        method.set_epoch(epoch, 240)
        torch.testing.assert_close(gradient(), reversal_in(epoch, 10) * last, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("update", [None, DOT.Config(lr=0.01)])
def test_captured_steps_are_the_steps_themselves(update: DOT.Config | None) -> None:
    ends = []
    for take in (plain, captured):
        spec = StudentSpec(
            small_net(3), method=CTKD.Config(curriculum_epochs=2), **({"update": update} if update else {})
        )
        trainer = trainer_of([spec])
        take(trainer)
        trainer.fit(data(), epochs=3)
        ends.append(tensors_of(trainer.students[0]))
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.equal(ends[1][name], value), name
    assert any("temperature_parameter" in name for name in ends[0])
