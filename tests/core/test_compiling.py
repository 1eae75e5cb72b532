"""torch.compile's setting for graphs that are gone through twice."""

from contextlib import suppress
from typing import Any

import pytest
import torch
import torch._functorch.config as functorch
import torch.nn.functional as F
from torch import nn

from understudy.core.compile import compiled, graphs_retained
from understudy.core.taps import TappedModel
from understudy.methods.kd import kd_loss
from understudy.models import create_model


@pytest.fixture(params=[True, False])
def before(request: pytest.FixtureRequest):
    was = functorch.donated_buffer
    functorch.donated_buffer = request.param
    yield request.param
    functorch.donated_buffer = was


def test_graphs_are_retained_within_the_block_and_the_setting_is_put_back(before: bool) -> None:
    with suppress(KeyError), graphs_retained(True):
        assert functorch.donated_buffer is False
        raise KeyError
    assert functorch.donated_buffer is before


def test_nothing_is_set_where_no_graph_is_retained_or_a_network_is_only_compiled(before: bool) -> None:
    compiled(TappedModel(nn.Linear(2, 2)), True)
    with graphs_retained(False):
        assert functorch.donated_buffer is before


@pytest.mark.slow
def test_a_second_backward_pass_through_compiled_code_gives_the_gradients_of_the_eager_one() -> None:
    network = create_model(
        "cifar:resnet8", num_classes=10, weights="none", kwargs={"width": 0.25}, mean=[0.5] * 3, std=[0.3] * 3
    )
    drawn = torch.Generator().manual_seed(0)
    images, labels = torch.rand(64, 3, 8, 8, generator=drawn), torch.randint(10, (64,), generator=drawn)
    model = TappedModel(network.module.train(), [], prepare=network.prepare, name="resnet8").train()

    def both(net: Any) -> list[torch.Tensor]:
        logits, parameters = net(images)[0], list(network.module.parameters())
        task, other = F.cross_entropy(logits, labels), kd_loss(logits, images.flatten(1)[:, :10])
        first = torch.autograd.grad(task, parameters, retain_graph=True)
        return [*first, *torch.autograd.grad(other, parameters)]

    expected = both(model)
    with graphs_retained(True):
        found = both(compiled(model, True))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True))
