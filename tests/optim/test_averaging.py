"""Averages of weights: their arithmetic, what they leave alone, and how they stop and go on."""

import pytest
import torch
from torch import nn

from helpers.engine import batches, small_net, small_teacher, student_of
from understudy import StudentSpec, methods
from understudy.core.taps import TappedModel
from understudy.optim.ema import Averaging, WeightAverage


def one_weight(value: float) -> nn.Module:
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(module.weight, value)
    return module


def averages(settings: Averaging, values: list[float]) -> list[float]:
    average = WeightAverage(one_weight(0.0), settings)
    found = []
    for step, value in enumerate(values, start=1):
        average.update(one_weight(value), step=step)
        found.append(average.module.weight.item())
    return found


def test_the_plain_average_forgets_by_its_decay_from_the_first_step_on() -> None:
    assert averages(Averaging(decay=0.75), [4, 4, 8]) == pytest.approx([1, 1.75, 3.3125], rel=1e-12)


def test_until_it_begins_the_average_is_a_copy() -> None:
    assert averages(Averaging(decay=0.75, after_steps=2), [4, 8, 16, 20]) == pytest.approx([4, 8, 16, 17], rel=1e-12)


def test_a_warmup_lets_the_decay_grow_with_the_steps() -> None:
    # timm: a copy first, then 1 - (1 + 1)^-1 = 1/2, then 1 - (1 + 2)^-1 = 2/3, at most `decay`.
    found = averages(Averaging(decay=0.7, warmup=True, warmup_power=1), [4, 8, 12, 22])
    assert found == pytest.approx([4, 6, 8, 0.7 * 8 + 0.3 * 22], rel=1e-12)


def test_running_statistics_are_averaged_and_counts_are_copied() -> None:
    module = nn.BatchNorm1d(1)
    average = WeightAverage(module, Averaging(decay=0.5))
    module.running_mean.fill_(2)
    module.num_batches_tracked.fill_(7)
    average.update(module, step=1)
    assert (average.module.running_mean.item(), average.module.num_batches_tracked.item()) == (1, 7)


def test_the_average_is_in_evaluation_mode_and_leaves_the_trained_network_alone() -> None:
    module = small_net(0, dropout=0.5).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    average = WeightAverage(module, Averaging())
    average.update(small_net(1), step=1)
    assert not any(part.training for part in average.module.modules())
    assert all(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("settings", [Averaging(decay=0.9), Averaging(decay=0.9, warmup=True)], ids=["plain", "warmup"])
def test_a_stopped_average_goes_on_as_if_it_had_not_been(settings: Averaging) -> None:
    whole, stopped = WeightAverage(small_net(0), settings), WeightAverage(small_net(0), settings)
    for step in range(1, 4):
        whole.update(small_net(step), step=step)
        stopped.update(small_net(step), step=step)
    resumed = WeightAverage(small_net(9), settings)
    resumed.load_state_dict({name: value.clone() for name, value in stopped.state_dict().items()})
    for step in range(4, 6):
        whole.update(small_net(step), step=step)
        resumed.update(small_net(step), step=step)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_the_average_of_a_tapped_network_writes_nothing_into_the_tapped_one() -> None:
    tapped = TappedModel(small_net(0), ["conv"])
    tapped.hold()  # as for compiled code
    average = WeightAverage(tapped.module, Averaging())
    average.module(batches()[0].images)
    assert not tapped._catcher.caught
    assert "conv" in tapped(batches()[0].images)[1]


def test_a_tapped_model_can_be_averaged_taps_and_all() -> None:
    tapped = TappedModel(small_net(0), ["conv"]).eval()
    average = WeightAverage(tapped, Averaging())
    images = batches()[0].images
    (output, features), (copied_output, copied_features) = tapped(images), average.module(images)
    assert torch.equal(output, copied_output)
    assert torch.equal(features["conv"], copied_features["conv"])


def test_what_a_method_deploys_is_averaged_with_its_connectors() -> None:
    settings = methods.SimKD.Config(match="embedding", student_tap="embedding", teacher_tap="embedding")
    student = student_of(StudentSpec(small_net(0), method=settings), small_teacher())
    student.train(False)
    deployed, images = student.deployed(), batches()[0].images
    average = WeightAverage(deployed, Averaging(decay=0.5))
    assert torch.equal(average.module(images), deployed(images))
    with torch.no_grad():
        for parameter in student.connectors.parameters():
            parameter.add_(1)
    before = average.module(images)
    average.update(deployed, step=1)
    assert not torch.equal(average.module(images), before)
