"""What keeps a transformer's step fast: fused attention, taps that copy nothing, one graph when compiled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from understudy.core.heads import open_heads_
from understudy.core.taps import TappedModel
from understudy.models import create_model

SMALL = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
STUDENTS = {
    "deit": ("timm:deit_tiny_distilled_patch16_224", SMALL),
    "two tokens": ("timm:deit_tiny_patch16_224", {**SMALL, "tokens": 2}),
    "deit_conv": ("understudy:deit_conv_tiny", SMALL),
    "co_advise": ("understudy:co_advise_tiny", SMALL),
}
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def student(name: str, taps: list[str]) -> TappedModel:
    model, kwargs = STUDENTS[name]
    network = create_model(model, num_classes=5, weights="none", image_size=16, kwargs=kwargs)
    open_heads_(network.module)
    tapped = TappedModel(network.module, taps, prepare=network.prepare, name=name).train()
    tapped.dry_forward(IMAGES)
    return tapped


class Counted(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", STUDENTS)
def test_attention_stays_fused_under_taps(name: str) -> None:
    tapped = student(name, ["norm", "attention"])
    with Counted() as counted:
        tapped(IMAGES)
    assert sum("scaled_dot_product" in one for one in counted.names) == SMALL["depth"]
    assert not any("softmax" in one for one in counted.names)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_tap_on_tokens_is_a_view_of_them(name: str) -> None:
    tapped, given = student(name, ["norm"]), []
    tapped.module.get_submodule("norm").register_forward_hook(lambda module, inputs, output: given.append(output))
    _, features = tapped(IMAGES)
    assert features["norm"].shape == (2, 16, 4, 4)
    assert features["norm"].untyped_storage().data_ptr() == given[-1].untyped_storage().data_ptr()


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_a_tapped_student_is_one_graph_when_it_is_compiled(name: str) -> None:
    tapped = student(name, ["norm", "attention", "embedding"])
    expected, features = tapped(IMAGES)
    tapped.hold()
    torch._dynamo.reset()
    graphs: list[nn.Module] = []

    def counting(graph: nn.Module, _: list[Tensor]) -> nn.Module:
        graphs.append(graph)
        return graph

    found, seen = torch.compile(tapped, fullgraph=True, dynamic=False, backend=counting)(IMAGES)
    assert len(graphs) == 1
    heads = [expected, found] if isinstance(expected, dict) else [dict(enumerate(expected)), dict(enumerate(found))]
    for head, logits in heads[0].items():
        torch.testing.assert_close(heads[1][head], logits)
    assert all(torch.allclose(seen[tap], feature, atol=1e-6) for tap, feature in features.items())
