"""Parameters that the first step does not reach, and those that are frozen on the way, train as under torch's SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
import torch._functorch.config
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.core.batch import Losses
from understudy.optim import DOT, Joint

SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}


class Skipping(nn.Module):
    """Three blocks under two heads; each pass goes through some of the blocks, as LayerDrop has it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.classifier = nn.Linear(4, 3)
        self.double()

    def forward(self, images: Tensor, blocks: Iterable[int] = (0, 1, 2)) -> Tensor:
        for number in blocks:
            images = images + self.blocks[number](images).tanh()
        return self.classifier(images)


def losses_of(
    model: Skipping, step: int, blocks: Iterable[int] = (0, 1, 2), forward: Callable[..., Tensor] | None = None
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    logits = (forward or model)(torch.randn(8, 4, generator=generator, dtype=torch.float64), blocks)
    labels = torch.randint(3, (8,), generator=generator)
    return {"task": F.cross_entropy(logits, labels), "distill": 2 * logits.square().mean()}


def step_of(model: Skipping, optimizer: torch.optim.Optimizer | Joint, step: int, *blocks: int) -> None:
    losses = losses_of(model, step, blocks)
    if isinstance(optimizer, DOT):
        optimizer.backward(**losses)
        optimizer.step()
    elif isinstance(optimizer, Joint):
        optimizer(Losses(**losses, terms={}))
    else:
        sum(losses.values()).backward()
        optimizer.step()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("nesterov", [False, True])
def test_joint_trains_blocks_that_the_first_steps_skip_as_a_plain_loop_does(nesterov: bool) -> None:
    ours, plain = Skipping(), Skipping()
    joint = Joint.Config(**SGD, nesterov=nesterov).build(ours.named_parameters())
    sgd = torch.optim.SGD(plain.parameters(), **SGD, nesterov=nesterov)
    for step, blocks in enumerate([(0,), (1,), (0, 2), (), (0, 1, 2), (2,)]):
        sgd.zero_grad()
        step_of(ours, joint, step, *blocks)
        step_of(plain, sgd, step, *blocks)
    assert_same(ours, plain)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop_tf"])
def test_so_does_joint_under_other_optimizers(optimizer: str) -> None:
    model = Skipping()
    joint = Joint.Config(optimizer=optimizer, lr=0.01).build(model.named_parameters())
    before = model.blocks[2].weight.detach().clone()
    for step, blocks in enumerate([(0,), (0, 1), (2,)]):
        step_of(model, joint, step, *blocks)
    assert not torch.equal(model.blocks[2].weight, before)


@pytest.mark.parametrize("dampening", [0.0, 0.3])
def test_dot_trains_blocks_that_the_first_steps_skip_from_their_first_gradient_on(dampening: float) -> None:
    ours, plain = Skipping(), Skipping()
    dot = DOT(ours.parameters(), **SGD, delta=0.0, dampening=dampening)
    sgd = torch.optim.SGD(plain.parameters(), **SGD, dampening=dampening)
    for step, blocks in enumerate([(0,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]):
        step_of(ours, dot, step, *blocks)
        sgd.zero_grad(set_to_none=False)  # DOT's zeros for what it knows and a pass leaves out
        step_of(plain, sgd, step, *blocks)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-6 if dampening else 1e-12, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("frozen_in", [range(3), range(2, 5)], ids=["unfrozen later", "frozen for a while"])
def test_layers_that_are_frozen_for_some_steps_train_as_under_torch(optimizer: str, frozen_in: range) -> None:
    ours, plain = Skipping(), Skipping()
    dot = DOT(ours.parameters(), **SGD, delta=0.0, optimizer=optimizer)
    settings = {"lr": 0.05, "weight_decay": 0.1}
    theirs = torch.optim.SGD(plain.parameters(), **SGD) if optimizer == "sgd" else torch.optim.AdamW(
        plain.parameters(), **settings
    )  # fmt: skip
    for step in range(8):
        for model in (ours, plain):
            model.blocks[1].requires_grad_(step not in frozen_in)
        theirs.zero_grad()
        step_of(ours, dot, step, 0, 1, 2)
        step_of(plain, theirs, step, 0, 1, 2)
    assert_same(ours, plain)


def test_a_loss_that_reaches_a_parameter_late_gets_a_momentum_there() -> None:
    """v_task with momentum 0.5 as long as it is alone, then 0.25, and 0.75 for the other loss."""
    parameter, other = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    optimizer = DOT([parameter, other], lr=1.0, momentum=0.5, delta=0.25)
    place = task = distill = 0.0
    for step in range(6):
        optimizer.backward(task=(parameter + other).sum(), distill=(other + (parameter if step > 2 else 0)).sum())
        optimizer.step()
        task = (0.5 if step <= 2 else 0.25) * task + 1
        distill = 0.75 * distill + 1 if step > 2 else 0.0
        place -= task + distill
    assert parameter.item() == pytest.approx(place, rel=1e-12)


def test_a_late_parameter_is_no_older_than_its_first_gradient_under_adamw() -> None:
    early, late = (nn.Parameter(torch.ones(4, dtype=torch.float64)) for _ in range(2))
    optimizer = DOT([early, late], lr=1e-3, optimizer="adamw", gain="ema")
    for _ in range(200):
        optimizer.backward(task=early.sum(), distill=early.square().sum())
        optimizer.step()
    optimizer.backward(task=(early + late).sum(), distill=(early + late).square().sum())
    optimizer.step()
    assert (1 - late).tolist() == pytest.approx([1e-3] * 4, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_settling_late_and_finding_out_late_are_the_same(optimizer: str) -> None:
    told, found = Skipping(), Skipping()
    optimizers = [DOT(model.parameters(), **SGD, optimizer=optimizer) for model in (told, found)]
    for step in range(6):
        if step == 3:
            optimizers[0].settle(task=told.parameters(), distill=told.parameters())
        blocks = (0,) if step < 3 else (0, 1, 2)
        for model, dot in zip((told, found), optimizers, strict=True):
            step_of(model, dot, step, *blocks)
    assert_same(told, found)


def test_what_settle_left_out_stays_out() -> None:
    model = Skipping()
    before = model.blocks[1].weight.detach().clone()
    dot = DOT(model.parameters(), **SGD)
    members = [p for name, p in model.named_parameters() if not name.startswith("blocks.1")]
    dot.settle(task=members, distill=members)
    for step in range(2):
        step_of(model, dot, step, 0, 1, 2)
    assert torch.equal(model.blocks[1].weight, before)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_dot_resumes_bit_for_bit_among_late_and_frozen_parameters(optimizer: str) -> None:
    settings = SGD | {"optimizer": optimizer} | ({"dampening": 0.1} if optimizer == "sgd" else {})
    paths = [(0,), (0, 1), (1,), (0, 2), (1, 2), (0, 1, 2)]

    def taken(model: Skipping, dot: DOT, steps: range) -> None:
        for step in steps:
            model.blocks[0].requires_grad_(step != 2)
            step_of(model, dot, step, *paths[step])

    whole, resumed = Skipping(), Skipping()
    taken(whole, DOT(whole.parameters(), **settings), range(6))
    saved = None
    for part in (range(3), range(3, 4), range(4, 6)):
        dot = DOT(resumed.parameters(), **settings)
        if saved is not None:
            dot.load_state_dict(saved)
        taken(resumed, dot, part)
        saved = dot.state_dict()
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


class TestCompiled:
    """Compiled code returns zeros, not None, for what a loss does not reach."""

    @staticmethod
    def heads(compiled: bool) -> tuple[nn.ModuleDict, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        torch.manual_seed(0)
        made = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("body", "task", "distill", "spare")}).double()

        def forward(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            body = made["body"](images).tanh()
            return made["task"](body), made["distill"](body), made["spare"](body)

        return made, torch.compile(forward, backend="aot_eager") if compiled else forward

    def trained(self, *, compiled: bool, optimizer: str, spare_from: int) -> nn.ModuleDict:
        made, forward = self.heads(compiled)
        dot = DOT(made.parameters(), lr=0.05, weight_decay=0.1, optimizer=optimizer)
        with torch._functorch.config.patch(donated_buffer=False):
            for step in range(5):
                generator = torch.Generator().manual_seed(step)
                task, distill, spare = forward(torch.randn(8, 4, generator=generator, dtype=torch.float64))
                distilled = distill.square().mean() + (spare.square().mean() if step >= spare_from else 0)
                dot.backward(task=task.square().mean(), distill=distilled)
                dot.step()
        return made

    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_dot_with_nothing_settled_takes_the_steps_of_an_eager_one(self, optimizer: str) -> None:
        eager, compiled = (self.trained(compiled=c, optimizer=optimizer, spare_from=3) for c in (False, True))
        assert_same(compiled, eager)

    @pytest.mark.parametrize("shares", [(1, 0), (0, 1), (1, 1)], ids=["task", "distill", "both"])
    def test_a_parameter_that_an_eager_first_step_did_not_reach_is_trained_by_compiled_ones(
        self, shares: tuple[int, int]
    ) -> None:
        places = []
        for compiled in (False, True):
            made, forward = self.heads(compiled)
            dot = DOT(made.parameters(), lr=0.05, weight_decay=0.1)
            body = made["body"](torch.ones(1, 4, dtype=torch.float64)).tanh()
            dot.backward(task=made["task"](body).sum(), distill=made["distill"](body).sum())
            dot.step()
            with torch._functorch.config.patch(donated_buffer=False):
                for step in range(3):
                    task, distill, spare = forward(torch.full((2, 4), float(step + 1), dtype=torch.float64))
                    losses = [
                        head.sum() + (spare.sum() if step and share else 0)
                        for head, share in zip((task, distill), shares, strict=True)
                    ]
                    dot.backward(task=losses[0], distill=losses[1])
                    dot.step()
            places.append(made)
        assert_same(*places)
