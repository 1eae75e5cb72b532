"""torch.compile's setting for graphs that are gone through twice."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._functorch.config as functorch
import torch.nn.functional as F
from torch import nn
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from understudy.core.compile import compile_cache, compiled, graphs_retained
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


def test_compiled_code_is_kept_where_it_outlives_a_restart_or_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    assert compile_cache() == tmp_path / "mine"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compile_cache() == tmp_path / "understudy" / "torch-compiled"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "understudy" / "torch-compiled")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compile_cache() == Path(default_cache_dir())


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
