import copy
from collections.abc import Callable

import pytest
import torch
import torch._functorch.config
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.core.batch import Losses
from understudy.optim import DOT
from understudy.optim.dot.update import reached_by


class Student(nn.Module):
    """Body under both losses, classifier under the task loss, connector under the distill loss, and a spare layer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Linear(4, 5)
        self.classifier = nn.Linear(5, 3)
        self.connector = nn.Linear(5, 2)
        self.spare = nn.Linear(2, 2)
        self.double()

    def heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.body(images).tanh()
        return self.classifier(embedding), self.connector(embedding)

    def losses(
        self, step: int, rows: slice = slice(None), heads: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    ) -> dict[str, Tensor]:
        """Sums over the rows of a batch of eight, so that parts of a batch add up to the whole."""
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 4, generator=generator, dtype=torch.float64)[rows]
        labels = torch.randint(3, (8,), generator=generator)[rows]
        features = torch.randn(8, 2, generator=generator, dtype=torch.float64)[rows]
        logits, connected = (heads or self.heads)(images)
        return {
            "task": F.cross_entropy(logits, labels, reduction="sum"),
            "distill": F.mse_loss(connected, features, reduction="sum"),
        }

    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters()]


def trained(student: Student, optimizer: DOT, steps: range) -> list[Tensor]:
    for step in steps:
        optimizer.backward(**student.losses(step))
        optimizer.step()
    return student.weights()


def test_dot_equals_sgd_on_the_sum_when_delta_is_zero() -> None:
    ours, theirs = Student(), Student()
    trained(ours, DOT(ours.parameters(), lr=0.01, delta=0.0, weight_decay=0.1), range(6))
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    for step in range(6):
        sgd.zero_grad()
        sum(theirs.losses(step).values()).backward()
        sgd.step()
    torch.testing.assert_close(ours.weights(), theirs.weights(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dampening", [0.0, 0.3])
def test_dot_is_sgd_with_momentum_where_nothing_is_distilled(dampening: float) -> None:
    ours, theirs = Student(), Student()
    dot = DOT(ours.parameters(), lr=0.01, weight_decay=0.1, dampening=dampening)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1, dampening=dampening)
    for step in range(6):
        dot.backward(task=ours.losses(step)["task"])
        dot.step()
        sgd.zero_grad()
        theirs.losses(step)["task"].backward()
        sgd.step()
    torch.testing.assert_close(ours.weights(), theirs.weights(), rtol=1e-12, atol=1e-14)


def test_two_micro_batches_equal_one_batch() -> None:
    whole, halves = Student(), Student()
    expected = trained(whole, DOT(whole.parameters(), lr=0.01, weight_decay=0.1), range(4))
    optimizer = DOT(halves.parameters(), lr=0.01, weight_decay=0.1)
    for step in range(4):
        for rows in (slice(0, 3), slice(3, 8)):
            optimizer.backward(**halves.losses(step, rows))
        optimizer.step()
    torch.testing.assert_close(halves.weights(), expected, rtol=1e-12, atol=1e-14)


def test_a_distill_loss_that_joins_in_the_middle_of_an_accumulation_keeps_the_task_gradient() -> None:
    together, apart = Student(), Student()
    expected = trained(together, DOT(together.parameters(), lr=0.01), range(1))
    optimizer = DOT(apart.parameters(), lr=0.01)
    optimizer.backward(task=apart.losses(0)["task"])
    optimizer.backward(distill=apart.losses(0)["distill"])
    optimizer.step()
    torch.testing.assert_close(apart.weights(), expected)


def test_a_distill_loss_of_none_counts_as_zero_once_it_has_been_seen() -> None:
    zero, none = Student(), Student()
    optimizers = [DOT(student.parameters(), lr=0.01, weight_decay=0.1) for student in (zero, none)]
    for student, optimizer in zip((zero, none), optimizers, strict=True):
        trained(student, optimizer, range(2))
    optimizers[0].backward(task=zero.losses(2)["task"], distill=0 * zero.losses(2)["distill"])
    optimizers[1].backward(task=none.losses(2)["task"], distill=None)
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(none.weights(), zero.weights())


def test_gradients_of_parameters_are_neither_read_nor_written() -> None:
    student, plain = Student(), Student()
    optimizer = DOT(student.parameters(), lr=0.01)
    optimizer.backward(**student.losses(0))
    assert all(parameter.grad is None for parameter in student.parameters())
    for parameter in student.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    optimizer.step()
    assert all((parameter.grad == 7).all() for parameter in student.parameters())
    expected = trained(plain, DOT(plain.parameters(), lr=0.01), range(1))
    torch.testing.assert_close(student.weights(), expected)


def test_zero_grad_drops_what_is_pending() -> None:
    student, plain = Student(), Student()
    optimizer = DOT(student.parameters(), lr=0.01)
    optimizer.backward(**student.losses(9))
    optimizer.zero_grad()
    expected = trained(plain, DOT(plain.parameters(), lr=0.01), range(3))
    torch.testing.assert_close(trained(student, optimizer, range(3)), expected)


def test_a_call_with_losses_is_backward_and_step() -> None:
    called, spelt = Student(), Student()
    optimizer = DOT(called.parameters(), lr=0.01)
    for step in range(3):
        optimizer(Losses(**called.losses(step), terms={}))
    expected = trained(spelt, DOT(spelt.parameters(), lr=0.01), range(3))
    torch.testing.assert_close(called.weights(), expected)


def test_which_loss_reaches_which_parameter_is_found_at_the_first_backward() -> None:
    student = Student()
    optimizer = DOT(student.parameters())
    assert optimizer.reached("task") == []
    optimizer.backward(**student.losses(0))
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    assert {names[id(p)].split(".")[0] for p in optimizer.reached("task")} == {"body", "classifier"}
    assert {names[id(p)].split(".")[0] for p in optimizer.reached("distill")} == {"body", "connector"}


def test_what_no_loss_reaches_is_not_even_decayed() -> None:
    student = Student()
    before = student.spare.weight.detach().clone()
    trained(student, DOT(student.parameters(), lr=0.01, weight_decay=0.1), range(2))
    assert torch.equal(student.spare.weight, before)


def test_settling_from_an_eager_forward_equals_settling_at_the_first_backward() -> None:
    told, found = Student(), Student()
    optimizer = DOT(told.parameters(), lr=0.01, weight_decay=0.1)
    eager = told.losses(7)
    optimizer.settle(**{stream: reached_by(loss, told.parameters()) for stream, loss in eager.items()})
    expected = trained(found, DOT(found.parameters(), lr=0.01, weight_decay=0.1), range(3))
    torch.testing.assert_close(trained(told, optimizer, range(3)), expected)


def test_a_settled_parameter_gets_no_gradient_from_a_loss_that_was_not_named() -> None:
    student = Student()
    optimizer = DOT(student.parameters(), lr=0.01)
    optimizer.settle(task=student.classifier.parameters(), distill=student.parameters())
    optimizer.backward(**student.losses(0))
    assert len(optimizer.gradients["task"]) == 2
    assert "momentum_task" not in optimizer.state[student.body.weight]


def test_a_parameter_that_is_settled_anew_keeps_what_still_reaches_it_and_forgets_the_rest() -> None:
    student = Student()
    optimizer = DOT(student.parameters(), lr=0.01)
    trained(student, optimizer, range(2))
    kept = optimizer.state[student.body.bias]["momentum_distill"].clone()
    optimizer.settle(task=student.classifier.parameters(), distill=student.body.parameters())
    assert list(optimizer.state[student.body.bias]) == ["momentum_distill"]
    assert torch.equal(optimizer.state[student.body.bias]["momentum_distill"], kept)


def test_a_parameter_that_one_forward_leaves_out_gets_a_gradient_of_zero() -> None:
    always, sometimes = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = DOT([always, sometimes], lr=1.0, momentum=0.5, delta=0.0)
    for loss in (always + sometimes, always):
        optimizer.backward(task=loss)
        optimizer.step()
    assert sometimes.item() == -1.5


def test_under_compilation_a_settled_membership_holds_though_compiled_code_returns_zeros() -> None:
    eager, compiled = Student(), Student()
    optimizer = DOT(compiled.parameters(), lr=0.01, weight_decay=0.1)
    reached = {stream: reached_by(loss, compiled.parameters()) for stream, loss in compiled.losses(7).items()}
    optimizer.settle(**reached)
    forward = torch.compile(compiled.heads, backend="aot_eager")
    with torch._functorch.config.patch(donated_buffer=False):
        for step in range(3):
            optimizer.backward(**compiled.losses(step, heads=forward))
            optimizer.step()
    expected = trained(eager, DOT(eager.parameters(), lr=0.01, weight_decay=0.1), range(3))
    torch.testing.assert_close(compiled.weights(), expected)


def test_resuming_continues_bit_for_bit_with_the_same_membership(tmp_path) -> None:
    whole, first = Student(), Student()
    expected = trained(whole, DOT(whole.parameters(), lr=0.01, weight_decay=0.1), range(6))
    begun = DOT(first.parameters(), lr=0.01, weight_decay=0.1)
    trained(first, begun, range(3))
    torch.save({"student": first.state_dict(), "update": begun.state_dict()}, tmp_path / "checkpoint.pt")

    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed = Student(seed=1)
    resumed.load_state_dict(saved["student"])
    optimizer = DOT(resumed.parameters())
    optimizer.load_state_dict(saved["update"])
    assert len(optimizer.reached("task")) == len(optimizer.reached("distill")) == 4
    for left, right in zip(trained(resumed, optimizer, range(3, 6)), expected, strict=True):
        assert torch.equal(left, right)


def test_a_state_dict_that_is_kept_in_memory_does_not_age_with_the_optimizer() -> None:
    student = Student()
    optimizer = DOT(student.parameters(), lr=0.01)
    trained(student, optimizer, range(2))
    kept = optimizer.state_dict()
    trained(student, optimizer, range(2, 4))
    assert kept["param_groups"][0]["steps"] == {"task": 2, "distill": 2}


def test_a_deep_copy_of_student_and_optimizer_trains_on_like_the_original() -> None:
    student = Student()
    optimizer = DOT(student.parameters(), lr=0.01, clip_norm=0.5)
    trained(student, optimizer, range(2))
    other, its_optimizer = copy.deepcopy((student, optimizer))
    assert_same = torch.testing.assert_close
    assert_same(trained(other, its_optimizer, range(2, 4)), trained(student, optimizer, range(2, 4)), rtol=0, atol=0)
