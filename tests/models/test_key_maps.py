"""Checkpoints in the layout of RepDistiller and mdistiller: read into our networks, and written from them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from understudy.models import create_model, load_weights, published_keys, save_published
from understudy.utils.errors import UserError


def norm(path: str) -> list[str]:
    return [f"{path}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]


def linear(path: str) -> list[str]:
    return [f"{path}.weight", f"{path}.bias"]


def convolved(path: str, numbers: range) -> Iterator[str]:
    """conv1, bn1, conv2, bn2, ... under a path."""
    for number in numbers:
        yield f"{path}conv{number}.weight"
        yield from norm(f"{path}bn{number}")


def resnet(layers: list[int], convolutions: int, widened: set[int], shortcut: str, classifier: str) -> Iterator[str]:
    yield from convolved("", range(1, 2))
    for layer, num_blocks in enumerate(layers, start=1):
        for block in range(num_blocks):
            path = f"layer{layer}.{block}."
            yield from convolved(path, range(1, convolutions + 1))
            if block == 0 and layer in widened:
                yield f"{path}{shortcut}.0.weight"
                yield from norm(f"{path}{shortcut}.1")
    yield from linear(classifier)


def wrn(blocks_per_stage: int, widened: set[int]) -> Iterator[str]:
    yield "conv1.weight"
    for stage in (1, 2, 3):
        for block in range(blocks_per_stage):
            path = f"block{stage}.layer.{block}"
            for number in (1, 2):
                yield from norm(f"{path}.bn{number}")
                yield f"{path}.conv{number}.weight"
            if block == 0 and stage in widened:
                yield f"{path}.convShortcut.weight"
    yield from [*norm("bn1"), *linear("fc")]


def vgg(*counts: int) -> Iterator[str]:
    for block, count in enumerate(counts):
        for number in range(count):
            yield from [*linear(f"block{block}.{3 * number}"), *norm(f"block{block}.{3 * number + 1}")]
    yield from linear("classifier")


def mobilenetv2() -> Iterator[str]:
    yield from ["conv1.0.weight", *norm("conv1.1")]
    for group, num_blocks in enumerate((1, 2, 3, 4, 3, 3, 1)):
        for block in range(num_blocks):
            for number in (0, 3, 6):
                path = f"blocks.{group}.{block}.conv"
                yield from [f"{path}.{number}.weight", *norm(f"{path}.{number + 1}")]
    yield from ["conv2.0.weight", *norm("conv2.1"), *linear("classifier.0")]


def shufflenet(convolutions_of_the_first: int, last: bool) -> Iterator[str]:
    yield from convolved("", range(1, 2))
    for layer, num_blocks in enumerate((4, 8, 4), start=1):
        for block in range(num_blocks):
            count = convolutions_of_the_first if block == 0 else 3
            yield from convolved(f"layer{layer}.{block}.", range(1, count + 1))
    yield from convolved("", range(2, 3) if last else range(0))
    yield from linear("linear")


PUBLISHED = {
    "resnet20": list(resnet([3, 3, 3], 2, {2, 3}, "downsample", "fc")),
    "resnet8x4": list(resnet([1, 1, 1], 2, {1, 2, 3}, "downsample", "fc")),
    "resnet18": list(resnet([2, 2, 2, 2], 2, {2, 3, 4}, "shortcut", "linear")),
    "resnet34": list(resnet([3, 4, 6, 3], 2, {2, 3, 4}, "shortcut", "linear")),
    "resnet50": list(resnet([3, 4, 6, 3], 3, {1, 2, 3, 4}, "shortcut", "linear")),
    "wrn_16_1": list(wrn(2, {2, 3})),
    "wrn_16_2": list(wrn(2, {1, 2, 3})),
    "wrn_40_1": list(wrn(6, {2, 3})),
    "wrn_40_2": list(wrn(6, {1, 2, 3})),
    "vgg8": list(vgg(1, 1, 1, 1, 1)),
    "vgg11": list(vgg(1, 1, 2, 2, 2)),
    "vgg13": list(vgg(2, 2, 2, 2, 2)),
    "vgg16": list(vgg(2, 2, 3, 3, 3)),
    "vgg19": list(vgg(2, 2, 4, 4, 4)),
    "mobilenetv2": list(mobilenetv2()),
    "shufflenetv1": list(shufflenet(3, last=False)),
    "shufflenetv2": list(shufflenet(5, last=True)),
}
RENAMED = ["resnet18", "resnet34", "resnet50", "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2", "mobilenetv2"]


def network(name: str, num_classes: int = 10) -> nn.Module:
    # Narrow: 17 networks at full width would take half a minute.
    return create_model(f"cifar:{name}", num_classes=num_classes, weights="none", kwargs={"width": 0.25}).module


def published_state(name: str) -> dict[str, Tensor]:
    """Random tensors under the published names, in the published order, which is ours."""
    shapes = [value.shape for value in network(name).state_dict().values()]
    return {key: torch.rand(shape) for key, shape in zip(PUBLISHED[name], shapes, strict=True)}


def are_equal(module: nn.Module, published: dict[str, Tensor]) -> bool:
    """Whether every tensor of a network is the one at the same place of the published order."""
    own = module.state_dict().values()
    return all(torch.equal(mine, theirs.to(mine.dtype)) for mine, theirs in zip(own, published.values(), strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_checkpoint_is_read_tensor_by_tensor(name: str, tmp_path: Path) -> None:
    state = published_state(name)
    torch.save({"epoch": 240, "model": state, "accuracy": torch.tensor([72.0])}, tmp_path / "ckpt_epoch_240.pth")
    module = network(name)
    load_weights(module, tmp_path / "ckpt_epoch_240.pth", name=name)
    assert are_equal(module, state)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_network_is_written_under_the_published_names(name: str, tmp_path: Path) -> None:
    module = network(name)
    save_published(module, tmp_path / "teachers" / "ckpt_epoch_240.pth")
    written = torch.load(tmp_path / "teachers" / "ckpt_epoch_240.pth", weights_only=True)
    assert list(written) == ["model"]
    assert list(written["model"]) == PUBLISHED[name]
    assert are_equal(module, written["model"])
    assert [file.name for file in (tmp_path / "teachers").iterdir()] == ["ckpt_epoch_240.pth"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_map_holds_the_names_that_differ_alone(name: str) -> None:
    module = network(name)
    differing = {own: theirs for own, theirs in zip(module.state_dict(), PUBLISHED[name], strict=True) if own != theirs}
    assert published_keys(module) == differing
    assert bool(differing) == (name in RENAMED)


@pytest.mark.parametrize("name", RENAMED)
@pytest.mark.parametrize("nesting", ["model", "state_dict"])
def test_nested_and_data_parallel_published_states_are_read(name: str, nesting: str, tmp_path: Path) -> None:
    state = published_state(name)
    torch.save({nesting: {f"module.{key}": value for key, value in state.items()}}, tmp_path / "a.pth")
    module = network(name)
    load_weights(module, tmp_path / "a.pth", name=name)
    assert are_equal(module, state)


@pytest.mark.parametrize("name", RENAMED)
def test_files_under_our_own_names_are_read_as_before(name: str, tmp_path: Path) -> None:
    module, other = network(name), network(name)
    torch.save(module.state_dict(), tmp_path / "a.pth")
    load_weights(other, tmp_path / "a.pth", name=name)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "vgg8"])
def test_a_published_head_for_other_classes_may_be_replaced(name: str, tmp_path: Path) -> None:
    save_published(network(name, num_classes=10), tmp_path / "a.pth")
    with pytest.raises(UserError, match="Only the classifier differs"):
        load_weights(network(name, num_classes=4), tmp_path / "a.pth", name=name)
    module = network(name, num_classes=4)
    load_weights(module, tmp_path / "a.pth", name=name, new_head=True)
    assert module.get_classifier().out_features == 4


def test_a_checkpoint_of_another_network_is_refused_by_its_keys(tmp_path: Path) -> None:
    save_published(network("wrn_40_1"), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"wrn_16_1: 144 unexpected \(block1.layer.2.bn1.weight.*another architecture"):
        load_weights(network("wrn_16_1"), tmp_path / "a.pth", name="wrn_16_1")


def test_channels_last_weights_are_written_as_plain_ones(tmp_path: Path) -> None:
    save_published(network("vgg8").to(memory_format=torch.channels_last), tmp_path / "a.pth")
    written = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    assert all(value.is_contiguous() for value in written.values())


def test_a_network_that_is_not_of_the_field_has_no_published_layout(tmp_path: Path) -> None:
    module = create_model("timm:resnet18", num_classes=3, weights="none").module
    assert published_keys(module) == {}
    with pytest.raises(UserError, match=r"a ResNet has no published layout, only networks of cifar:NAME have"):
        save_published(module, tmp_path / "a.pth")
    assert list(tmp_path.iterdir()) == []
