"""The probe of translation equivariance: it sees what the definition says, and leaves nothing changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from matplotlib.text import Text
from torch import nn

from helpers.engine import DROPOUT_STUDENT, run_recipe, tiny_recipe
from helpers.states import differing, flat
from understudy.analysis.equivariance import block_equivariance, block_paths, equivariance
from understudy.models import create_model
from understudy.probes import PROBES, Probed, Sight
from understudy.report.figures import FIGURES
from understudy.report.figures.style import Plot
from understudy.report.run_data import read_run

torch.set_num_threads(1)

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SIGHT = cast(Sight, None)  # it looks at the network alone


def network(name: str, **kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, num_classes=5, weights="none", image_size=16, kwargs=kwargs).module


def vit() -> nn.Module:
    return network(
        "timm:deit_tiny_distilled_patch16_224", patch_size=4, embed_dim=12, depth=2, num_heads=2, drop_path_rate=0.5
    )


def looked(module: nn.Module) -> dict[str, Any]:
    probe = PROBES["equivariance"](Probed("student", module, [], [], cast(Any, None)))
    assert probe.problem() is None
    probe.begin()
    with torch.no_grad():
        module(IMAGES)
    return dict(probe.look(SIGHT))


def test_blocks_of_a_transformer_are_found_and_measured_beside_their_tokens() -> None:
    module = vit().eval()
    found = looked(module)
    assert list(found) == ["blocks.0", "blocks.1", "mean"]
    with torch.no_grad():
        given = module._pos_embed(module.patch_embed(IMAGES))
        wanted = equivariance(module.blocks[0], given, num_prefix=2, keeps_prefix=True, filling="zero", only_valid=True)
    assert found["blocks.0"] == pytest.approx(wanted.relative, rel=1e-6)
    assert found["mean"] == pytest.approx((found["blocks.0"] + found["blocks.1"]) / 2)


def test_self_attention_is_not_called_equivariant_by_definition() -> None:
    """Cyclic shifts of tokens would give 0 for any weights."""
    module = vit().eval()
    with torch.no_grad():
        given = module._pos_embed(module.patch_embed(IMAGES))
    cyclic = equivariance(module.blocks[0], given, num_prefix=2, keeps_prefix=True, filling="cyclic")
    assert cyclic.relative < 1e-10
    assert block_equivariance(module.blocks[0], given, num_prefix=2).relative > 1e-7


def test_a_training_network_and_its_random_numbers_are_left_as_they_were() -> None:
    module = vit().train()
    state, drawn = flat(module.state_dict()), torch.get_rng_state()
    probe = PROBES["equivariance"](Probed("student", module, [], [], cast(Any, None)))
    probe.begin()
    module(IMAGES)
    after_the_pass = torch.get_rng_state()
    assert not torch.equal(drawn, after_the_pass)
    probe.look(SIGHT)
    assert torch.equal(torch.get_rng_state(), after_the_pass)
    assert differing(state, flat(module.state_dict())) == []
    assert all(part.training for part in module.modules())
    assert not any(part._forward_hooks for part in module.modules())


def test_blocks_of_a_network_of_convolutions_are_measured_on_their_maps() -> None:
    found = looked(network("cifar:resnet8", width=0.25).eval())
    assert {path for path in found if path != "mean"} <= set(block_paths(network("cifar:resnet8", width=0.25)))
    assert len(found) >= 2
    assert all(0 <= value < 10 for value in found.values())


def test_a_network_without_blocks_is_said_to_have_none() -> None:
    problem = PROBES["equivariance"](Probed("student", nn.Linear(2, 2), [], [], cast(Any, None))).problem()
    assert problem is not None
    assert "no blocks" in problem


@pytest.mark.slow
def test_the_page_draws_it_by_step_for_every_row(tmp_path: Path) -> None:
    over = {"student": {**DROPOUT_STUDENT, "kwargs": {**DROPOUT_STUDENT["kwargs"], "patch_size": 2}}, "seeds": [0]}
    run = run_recipe(tiny_recipe({**over, "probes": ["equivariance"], "probe_every": 2}), tmp_path / "run")
    plot = FIGURES["shifts"].draw(read_run(run.path))
    assert isinstance(plot, Plot)
    labels = {text.get_text() for text in plot.figure.findobj(Text)}
    assert {"alone", "kd+dot", "mean over blocks", "last block"} <= labels
