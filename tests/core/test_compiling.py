"""torch.compile's setting for graphs that are gone through twice."""

from contextlib import suppress

import pytest
import torch._functorch.config as functorch
from torch import nn

from understudy.core.compile import compiled, graphs_retained
from understudy.core.taps import TappedModel


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
