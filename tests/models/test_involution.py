"""Involutions, and the networks that are made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from understudy.models import create_model, published_keys
from understudy.models.involution import Involution

torch.set_num_threads(1)

# Li et al., CVPR 2021, table 2, in millions.
MILLIONS = {26: 9.2, 38: 12.4, 50: 15.5, 101: 25.6, 152: 34.0}


@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (3, 2), (7, 1)])
def test_every_place_sums_its_neighbours_by_a_kernel_of_its_own(kernel_size: int, stride: int) -> None:
    torch.manual_seed(0)
    involution, side = Involution(32, kernel_size, stride).double(), 4 // stride
    planes = torch.randn(2, 32, 4, 4, dtype=torch.float64)
    kernels = involution.span(involution.reduce(F.avg_pool2d(planes, stride)))
    kernels = kernels.view(2, 2, kernel_size, kernel_size, side, side).repeat_interleave(16, dim=1)
    padded, expected = F.pad(planes, [kernel_size // 2] * 4), torch.zeros(2, 32, side, side, dtype=torch.float64)
    for y in range(side):
        for x in range(side):
            around = padded[:, :, y * stride :, x * stride :][:, :, :kernel_size, :kernel_size]
            expected[:, :, y, x] = (kernels[..., y, x] * around).sum(dim=(2, 3))
    torch.testing.assert_close(involution(planes), expected)


@pytest.mark.parametrize("depth", MILLIONS)
def test_rednet_has_the_papers_parameters(depth: int) -> None:
    with torch.device("meta"):
        module = create_model(f"understudy:rednet{depth}", num_classes=1000, weights="none").module
    found = sum(parameter.numel() for parameter in module.parameters()) / 1e6
    assert abs(found - MILLIONS[depth]) < 0.06


def test_planes_of_odd_sides_are_taken() -> None:
    assert Involution(16, 7, 2)(torch.randn(2, 16, 5, 1)).shape == (2, 16, 3, 1)


def test_rednet_reads_weights_under_mmclassifications_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = create_model("understudy:rednet26", num_classes=3, weights="none").module
    theirs = published_keys(module)
    assert theirs["conv1.3.span.bias"] == "stem.1.conv2.bias"
    assert theirs["layer1.0.conv2.reduce.1.running_mean"] == "layer1.0.conv2.conv1.bn.running_mean"
    state = {
        f"{'head' if key.startswith('fc.') else 'backbone'}.{theirs.get(key, key)}": value
        for key, value in module.state_dict().items()
    }
    torch.save({"state_dict": state}, tmp_path / "rednet26.pth")
    found = create_model("understudy:rednet26", num_classes=3, weights=tmp_path / "rednet26.pth").module
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in module.state_dict().items())
