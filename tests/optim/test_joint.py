import pytest
import torch
import torch.nn.functional as F
from timm.optim import Lion, RMSpropTF
from torch import nn

from understudy.core.batch import Losses
from understudy.optim import UPDATES, Joint


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def losses_of(model: nn.Module, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    logits = model(torch.randn(8, 4, generator=generator, dtype=torch.float64))
    labels = torch.randint(3, (8,), generator=generator)
    return F.cross_entropy(logits, labels), 2 * logits.square().mean()


def trained(model: nn.Module, update: Joint, steps: range) -> dict[str, torch.Tensor]:
    for step in steps:
        task, distill = losses_of(model, step)
        update(Losses(task=task, distill=distill, terms={}))
    return model.state_dict()


@pytest.mark.parametrize(
    ("config", "optimizer"),
    [
        (
            Joint.Config(lr=0.1, nesterov=True, weight_decay=0.01),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        ),
        (
            Joint.Config(optimizer="adamw", lr=0.01, momentum=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
        ),
        (
            Joint.Config(optimizer="rmsprop_tf", lr=0.01, momentum=0.8, alpha=0.95, eps=1e-3, weight_decay=0.1),
            lambda p: RMSpropTF(p, lr=0.01, momentum=0.8, alpha=0.95, eps=1e-3, weight_decay=0.1, foreach=False),
        ),
        (
            Joint.Config(optimizer="rmsprop", lr=0.01, momentum=0.8, eps=1e-3, weight_decay=0.1),
            lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.8, eps=1e-3, weight_decay=0.1),
        ),
        (
            Joint.Config(optimizer="nadam", lr=0.01, momentum=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1),
            lambda p: torch.optim.NAdam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
        ),
        (
            Joint.Config(optimizer="lion", lr=0.01, momentum=0.8, weight_decay=0.1),
            lambda p: Lion(p, lr=0.01, betas=(0.8, 0.99), weight_decay=0.1),
        ),
    ],
    ids=["sgd", "adamw", "rmsprop_tf", "rmsprop", "nadam", "lion"],
)
def test_joint_equals_a_plain_training_loop(config: Joint.Config, optimizer) -> None:
    ours, plain = network(), network()
    found = trained(ours, config.build(ours.named_parameters()), range(5))
    loop = optimizer(plain.parameters())
    for step in range(5):
        loop.zero_grad()
        sum(losses_of(plain, step)).backward()
        loop.step()
    torch.testing.assert_close(found, plain.state_dict(), rtol=1e-12, atol=1e-14)


def test_joint_trains_on_the_task_alone_where_nothing_is_distilled() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    update = Joint.Config(lr=0.5, weight_decay=0).build([("weight", parameter)])
    update(Losses(task=parameter.sum(), distill=None, terms={}))
    assert parameter.item() == -0.5


def test_joint_leaves_no_gradient_behind() -> None:
    model = network()
    trained(model, Joint.Config().build(model.named_parameters()), range(1))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_joint_clips_the_gradient_of_the_sum() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    update = Joint.Config(lr=1.0, weight_decay=0, clip_norm=1.0).build([("weight", parameter)])
    update(Losses(task=parameter[0] * 9, distill=parameter[1] * 4 - parameter[0] * 6, terms={}))
    assert parameter.tolist() == pytest.approx([-0.6, -0.8], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop_tf", "rmsprop", "nadam", "lion"])
def test_joint_resumes_bit_for_bit(optimizer: str) -> None:
    whole, resumed, config = network(), network(), Joint.Config(optimizer=optimizer, lr=0.1)
    expected = trained(whole, config.build(whole.named_parameters()), range(6))
    begun = config.build(resumed.named_parameters())
    trained(resumed, begun, range(3))
    continued = Joint.Config(optimizer=optimizer, lr=0.3).build(resumed.named_parameters())
    continued.load_state_dict(begun.state_dict())
    found = trained(resumed, continued, range(3, 6))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_learning_rate_factor_is_of_the_initial_rate_even_after_a_resume() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    begun = Joint.Config(lr=0.5).build([("weight", parameter)])
    begun.set_lr_factor(0.1)
    continued = Joint.Config(lr=0.5).build([("weight", parameter)])
    continued.load_state_dict(begun.state_dict())
    continued.set_lr_factor(0.2)
    assert continued.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_rmsprop_starts_from_squares_of_one_and_has_the_rate_in_its_momentum() -> None:
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    config = Joint.Config(optimizer="rmsprop_tf", lr=0.1, momentum=0.5, alpha=0.75, eps=0.25, weight_decay=0)
    update = config.build([("weight", parameter)])
    places = []
    for _ in range(2):
        update(Losses(task=2 * parameter.sum(), distill=None, terms={}))
        places.append(parameter.item())
    # Squares 1 + (4 - 1) / 4 = 1.75, then 1.75 + (4 - 1.75) / 4 = 2.3125; eps under the root.
    first = 0.1 * 2 / 2.0**0.5
    second = 0.5 * first + 0.1 * 2 / 2.5625**0.5
    assert places == pytest.approx([-first, -first - second], rel=1e-12)


@pytest.mark.parametrize("name", ["joint", "dot"])
def test_the_initial_rate_is_known_at_any_time(name: str) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    update = UPDATES[name].Config(lr=0.5).build([("weight", parameter)])
    before = update.initial_lr
    update.set_lr_factor(0.1)
    assert (before, update.initial_lr, update.lr) == (0.5, 0.5, pytest.approx(0.05))


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adamw"])
def test_a_rate_on_the_device_takes_the_same_steps_and_is_a_number_in_a_checkpoint(optimizer: str) -> None:
    ends = []
    for is_on_device in (False, True):
        parameter = nn.Parameter(torch.linspace(-1, 1, 5))
        config = UPDATES["joint"].Config(optimizer=optimizer, lr=0.25, weight_decay=0.1)
        update = config.build([("weight", parameter)])
        assert update.capture_problem() is None
        if is_on_device:
            update.prepare_capture(torch.device("cpu"))
        for step in range(4):
            if step == 2:
                kept, update = update.state_dict(), config.build([("weight", parameter)])
                assert [group["lr"] for group in kept["param_groups"]] == [0.125]
                if is_on_device:
                    update.prepare_capture(torch.device("cpu"))
                update.load_state_dict(kept)
            update.set_lr_factor(0.5**step)
            assert update.lr == 0.25 * 0.5**step
            update(Losses(task=(parameter**2).sum(), distill=None, terms={}))
        ends.append(parameter.detach())
    assert torch.equal(*ends)


def test_an_optimizer_that_counts_in_python_says_why_it_is_not_replayed() -> None:
    update = Joint(torch.optim.Adagrad([nn.Parameter(torch.zeros(1))]))
    assert update.capture_problem() == "Adagrad keeps numbers of the step in Python"
    update = Joint(torch.optim.RMSprop([nn.Parameter(torch.zeros(1))], centered=True))
    assert update.capture_problem() == "RMSprop with centered=True keeps numbers of the step in Python"
