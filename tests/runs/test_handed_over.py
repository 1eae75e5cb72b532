"""Whether networks and data that Python hands over are those of another call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from helpers.tiny import tiny_data, tiny_network
from understudy.data import dataset_splits
from understudy.runs.identity import data_identity, differing_parts, network_identity


class ByHand(nn.Module):
    """A network of which neither weights nor `repr` say everything."""

    def __init__(self, activation: str = "relu", *, drop: float = 0.1, frozen: bool = False) -> None:
        super().__init__()
        self.activation, self.drop = activation, drop
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.conv.requires_grad_(not frozen)

    def forward(self, images: Tensor) -> Tensor:
        features = getattr(F, self.activation)(self.conv(images * self.scale)).mean((2, 3))
        return self.fc(F.dropout(features, self.drop, self.training))


class Unregistered(nn.Module):
    """Networks in a plain list, which show no tensors at all."""

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        self.networks = list(networks)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([network(images) for network in self.networks]).mean(0)


class Transformed(Dataset[Any]):
    """`tiny_data` through a transform, which spares the first images."""

    targets = (torch.arange(48) % 3).tolist()

    def __init__(self, transform: Callable[[Tensor], Tensor], *, spared: int = 0) -> None:
        self.transform, self.spared = transform, spared

    def __len__(self) -> int:
        return 48

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image, label = tiny_data()[i]
        return self.transform(image) if i >= self.spared else image, int(label)


def darker(image: Tensor) -> Tensor:
    return image * 0.9


def data_with(place: int | None) -> TensorDataset:
    """`tiny_data` with another image at a place."""
    images, labels = (tensor.clone() for tensor in tiny_data().tensors)
    if place is not None:
        images[place] *= 0.5
    return TensorDataset(images, labels)


def of_network(module: nn.Module) -> dict[str, Any]:
    return network_identity(module, image_shape=(3, 8, 8))


def of_data(train: Any, **others: Any) -> dict[str, Any]:
    given = {"train": train, "val": tiny_data(24)} | others
    classes = given.pop("classes", None)
    return data_identity(dataset_splits(*given.values(), classes=classes), given)


def differing(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    return list(differing_parts(here, there))


@pytest.mark.parametrize(
    ("one", "other", "parts"),
    [
        (ByHand("relu"), ByHand("silu"), ["outputs", "outputs in training"]),
        (ByHand(drop=0.1), ByHand(drop=0.3), ["outputs in training"]),
        (ByHand(), ByHand(frozen=True), ["modules"]),
        (nn.Sequential(ByHand(), nn.Dropout(0.1)), nn.Sequential(ByHand(), nn.Dropout(0.2)), ["modules"]),
        (Unregistered(tiny_network(8)), Unregistered(tiny_network(8), tiny_network(12)), ["outputs"]),
    ],
    ids=["an activation", "a rate of dropout", "a frozen layer", "a layer of dropout", "networks without tensors"],
)
def test_another_network_is_told_by_what_differs(one: nn.Module, other: nn.Module, parts: list[str]) -> None:
    assert set(parts) <= set(differing(of_network(one), of_network(other)))


def test_another_buffer_is_another_network_though_no_state_dict_has_it() -> None:
    other = ByHand()
    other.scale.mul_(2)
    assert "weights" in differing(of_network(ByHand()), of_network(other))


def test_the_same_network_is_known_again_and_left_as_it_was() -> None:
    network = tiny_network(4).eval()
    before, drawn = {name: value.clone() for name, value in network.state_dict().items()}, torch.get_rng_state()
    assert differing(of_network(network), of_network(tiny_network(4))) == []
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())
    assert not any(part.training for part in network.modules())


def test_rounding_makes_no_other_network() -> None:
    here = of_network(ByHand())
    there = {**here, "outputs": [value * (1 + 1e-6) for value in here["outputs"]]}
    assert differing(here, there) == []


def test_a_network_that_cannot_take_the_images_is_told_by_its_error() -> None:
    assert of_network(nn.Sequential(nn.Flatten(), nn.Linear(5, 3)))["outputs"] == "RuntimeError"


@pytest.mark.parametrize(
    ("one", "other", "part"),
    [
        (of_data(data_with(None)), of_data(data_with(7)), "train.pixels"),
        (of_data(Transformed(darker, spared=48)), of_data(Transformed(darker, spared=1)), "train.pixels"),
        (of_data(data_with(None), val=data_with(None)), of_data(data_with(None), val=data_with(31)), "val.pixels"),
        (of_data(data_with(None), test=data_with(None)), of_data(data_with(None), test=data_with(31)), "test.pixels"),
        (of_data(data_with(None)), of_data(data_with(None), test=data_with(None)), "test"),
        (of_data(data_with(None), classes="rgb"), of_data(data_with(None), classes="rgx"), "classes"),
    ],
    ids=["a training image", "a transform that spares image 0", "a val image", "a test image", "a test set", "classes"],
)
def test_other_data_are_told_by_what_differs(one: dict[str, Any], other: dict[str, Any], part: str) -> None:
    assert part in differing(one, other)


def test_data_whose_transform_owns_its_generator_are_known_again() -> None:
    def noisy(image: Tensor) -> Tensor:
        return image + torch.as_tensor(np.random.default_rng().normal(size=image.shape)).float()

    assert differing(of_data(Transformed(noisy)), of_data(Transformed(noisy))) == []
