"""Networks: which memory format their convolutions get, and what they say of their normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from understudy.models import in_format, network_of


def first_weight(*, channels: int, kernel: int, stride: int, groups: int = 1) -> torch.Tensor:
    """Of a network with this convolution behind its first, asked to be channels_last."""
    module = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 16, kernel, stride=stride, groups=groups)
    )
    in_format(network_of(module, num_classes=16), True)
    return module[0].weight


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "groups"), [(16, 1, 2, 1), (4, 1, 1, 1), (4, 3, 2, 1), (32, 1, 2, 2)]
)
def test_convolutions_become_channels_last(channels: int, kernel: int, stride: int, groups: int) -> None:
    weight = first_weight(channels=channels, kernel=kernel, stride=stride, groups=groups)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (7, 1), (8, 1), (15, 1), (16, 4), (32, 4)])
def test_networks_whose_gradient_would_write_beside_its_memory_stay_contiguous(channels: int, groups: int) -> None:
    """The process was aborted (heap corrupted) at a backward pass of a 4-channel resnet8; of 8 channels on AVX-512."""
    assert first_weight(channels=channels, kernel=1, stride=2, groups=groups).is_contiguous()


def test_what_a_network_says_of_its_normalisation_gives_the_same_again() -> None:
    """Seven digits lost the last bit of one in ten: a teacher that was read again scored differently."""
    values = (0.38271078467, 0.30667281151, 0.485)
    network = network_of(nn.Flatten(), num_classes=2, mean=values, std=values)
    again = network_of(nn.Flatten(), num_classes=2, mean=network.mean, std=network.std)
    assert torch.equal(network.prepare.std, again.prepare.std)
    assert network.std[2] == 0.485
