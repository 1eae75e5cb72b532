"""Processes whose students reach different parameters, as where blocks are skipped at random, train as one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.two_processes import TwoProcesses
from understudy import DOT, Joint, kd_loss
from understudy.core.batch import Losses
from understudy.distributed.launch import joined

PATHS = {  # blocks that each process goes through, step by step
    "other blocks": [((0,), (1,)), ((1,), (2,)), ((2,), (0,)), ((0,), (0,))],
    "other numbers": [((0, 1), ()), ((), (0, 1, 2)), ((2,), ()), ((0, 1, 2), (0,))],
}


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 3)
        self.double()

    def forward(self, images: Tensor, blocks: tuple[int, ...]) -> Tensor:
        for number in blocks:
            images = images + self.blocks[number](images).tanh()
        return self.head(images)


def losses_of(model: Skipping, rank: int, step: int, blocks: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Halves, so that those of two processes add up to a mean."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    logits = model(torch.randn(6, 4, generator=generator, dtype=torch.float64), blocks)
    return F.cross_entropy(logits, torch.arange(6) % 3) / 2, logits.square().mean() / 2


def updated(update: str, settings: dict[str, Any], model: nn.Module) -> Any:
    config = Joint.Config(**settings) if update == "joint" else DOT.Config(**settings, delta=0.0)
    return config.build(model.named_parameters())


def train(update: str, settings: dict[str, Any], paths: str, accumulate: int) -> list[Tensor]:
    """Weights after a few steps of this process beside the other one."""
    with joined() as world:
        model = Skipping()
        built = updated(update, settings, model)
        built.add_up = world.add_up
        for step, both in enumerate(PATHS[paths]):
            for part in range(accumulate):
                task, distill = losses_of(model, world.rank, 100 * part + step, both[(world.rank + part) % 2])
                built.accumulate(Losses(task=task, distill=distill, terms={}))
            built.step()
        return [parameter.detach() for parameter in model.parameters()]


def train_alone(update: str, settings: dict[str, Any], paths: str, accumulate: int) -> list[Tensor]:
    """The same in one process, which takes both processes' passes one after the other."""
    model = Skipping()
    built = updated(update, settings, model)
    for step, both in enumerate(PATHS[paths]):
        for part in range(accumulate):
            for rank in range(2):
                task, distill = losses_of(model, rank, 100 * part + step, both[(rank + part) % 2])
                built.accumulate(Losses(task=task, distill=distill, terms={}))
        built.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("paths", PATHS)
@pytest.mark.parametrize(("accumulate", "clip_norm"), [(1, None), (2, 0.3)])
@pytest.mark.parametrize(
    ("update", "optimizer"), [("joint", "sgd"), ("joint", "adamw"), ("dot", "sgd"), ("dot", "adamw")]
)
def test_they_train_as_one_process_that_takes_all_their_passes(
    update: str, optimizer: str, accumulate: int, clip_norm: float | None, paths: str, pair: TwoProcesses
) -> None:
    settings = {"lr": 0.05, "weight_decay": 0.1, "clip_norm": clip_norm, "optimizer": optimizer}
    first, second = pair.call(train, update, settings, paths, accumulate)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    torch.testing.assert_close(first, train_alone(update, settings, paths, accumulate), rtol=1e-10, atol=1e-12)


def train_with_a_distill_loss_on_one() -> tuple[list[Tensor], int]:
    with joined() as world:
        model = Skipping()
        dot = DOT(model.parameters(), lr=0.05, weight_decay=0.1)
        dot.add_up = world.add_up
        for step in range(4):
            task, distill = losses_of(model, world.rank, step, (0, 1))
            dot.backward(task=task, distill=distill if world.is_first and step in (1, 3) else None)
            dot.step()
        return [parameter.detach() for parameter in model.parameters()], len(dot.reached("distill"))


def test_a_distill_loss_that_one_process_alone_has_moves_the_other_too(pair: TwoProcesses) -> None:
    (first, mine), (second, theirs) = pair.call(train_with_a_distill_loss_on_one)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert mine == theirs == 6


def own_loop(wraps: bool, rank: int | None = None) -> list[Tensor]:
    """DOT in a loop of one's own: in this process among two, each with half of the images, or alone with all."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double()
    network = nn.parallel.DistributedDataParallel(model) if wraps else model
    optimizer = DOT(network.parameters(), lr=0.05, delta=0.075)
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        images, taught = (torch.randn(8, size, generator=generator, dtype=torch.float64) for size in (6, 5))
        labels = torch.randint(5, (8,), generator=generator)
        here = slice(None) if rank is None else slice(4 * rank, 4 * rank + 4)
        logits = network(images[here])
        task = F.cross_entropy(logits, labels[here])
        optimizer.backward(task=task, distill=kd_loss(logits, taught[here], temperature=4))
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def own_loop_in_pair(wraps: bool) -> list[Tensor]:
    return own_loop(wraps, dist.get_rank())


@pytest.mark.parametrize("wraps", [True, False], ids=["DistributedDataParallel", "unwrapped"])
def test_dot_in_a_loop_of_ones_own_averages_over_the_processes(wraps: bool, pair: TwoProcesses) -> None:
    first, second = pair.call(own_loop_in_pair, wraps)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    torch.testing.assert_close(first, own_loop(False), rtol=1e-10, atol=1e-12)
