"""Stages, pre-activations and norms of timm's and torchvision's networks."""

import copy
from functools import cache

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from understudy.core.batch import Batch
from understudy.core.stages import stages_of
from understudy.core.taps import TappedModel, check_taps
from understudy.teachers import LiveTeacher
from understudy.utils.errors import UserError

Shapes = list[tuple[int, ...]]

# The same architecture in torchvision and in timm.
TWINS = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "vgg11": "vgg11",
    "vgg13_bn": "vgg13_bn",
    "efficientnet_b0": "efficientnet_b0",
    "mnasnet1_0": "mnasnet_100",
    "regnet_y_400mf": "regnety_004",
    "convnext_tiny": "convnext_tiny",
    "swin_t": "swin_tiny_patch4_window7_224",
    "vit_b_16": "vit_base_patch16_224",
}
END_IN_RELU = ["resnet18", "resnet50", "vgg13_bn", "regnet_y_400mf", "timm:seresnext26d_32x4d", "timm:mobilenetv1_100"]
LINEAR = ["mobilenet_v2", "timm:mobilenetv2_100", "efficientnet_b0", "timm:efficientnet_b0"]
WITHOUT = [
    "convnext_tiny",
    "timm:convnext_tiny",
    "swin_t",
    "timm:vit_tiny_patch16_224",
    "vit_b_16",
    "shufflenet_v2_x0_5",
]


def built(name: str) -> nn.Module:
    """A network of torchvision's, or with "timm:" in front of timm's."""
    source, _, rest = name.rpartition(":")
    module: nn.Module = (timm.create_model if source else torchvision.models.get_model)(rest, num_classes=10)
    return module


@cache
def on_meta(name: str) -> nn.Module:
    if name.startswith("regnet"):  # torchvision's works out its widths with tensors
        return built(name).to("meta")
    with torch.device("meta"):
        return built(name)


def real(name: str) -> nn.Module:
    """With random weights and statistics, without VGG's wide classifier, whose hundred million weights take seconds."""
    module = copy.deepcopy(on_meta(name))
    if name.startswith("vgg"):
        module.classifier = nn.Linear(512 * 7 * 7, 10, device="meta")
    module.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for tensor in module.parameters():
        fan_in = max(tensor[0].numel(), 1)
        nn.init.normal_(tensor, std=(2 / fan_in) ** 0.5 if tensor.ndim > 1 else 1.0, generator=generator)
    for key, buffer in module.named_buffers():
        if buffer.is_floating_point():
            buffer.fill_(0 if key.endswith("mean") else 1)
    return module.eval()


def images(size: int = 64) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def meta_shapes(name: str, group: str) -> Shapes:
    _, shapes = TappedModel(on_meta(name), [group]).dry_forward(torch.zeros(2, 3, 224, 224, device="meta"))
    return [(shape.channels, shape.height or 1, shape.width or 1) for shape in shapes.values()]


@pytest.mark.parametrize("name", TWINS)
def test_an_architecture_has_the_same_stages_in_torchvision_and_in_timm(name: str) -> None:
    theirs = meta_shapes(f"timm:{TWINS[name]}", "stages")
    assert meta_shapes(name, "stages") == theirs
    assert theirs[-1][1:] == (14, 14) if name == "vit_b_16" else (7, 7)


@pytest.mark.parametrize("name", [*END_IN_RELU, *LINEAR])
def test_a_preactivation_has_the_shape_of_its_stage_and_a_norm_of_its_channels(name: str) -> None:
    stages, before = meta_shapes(name, "stages"), meta_shapes(name, "preact_stages")
    assert before == stages[: len(before)]
    assert len(stages) - len(before) == name.startswith("vgg")  # whose last stage is a pooling
    norms = TappedModel(on_meta(name), ["preact_stages"]).norms()
    assert [norm.num_features for norm in norms.values()] == [channels for channels, _, _ in before]


@pytest.mark.parametrize("name", END_IN_RELU)
def test_a_stage_is_the_rectified_preactivation(name: str) -> None:
    module = real(name)
    with torch.no_grad():
        _, features = TappedModel(module, ["stages", "preact_stages"])(images())
    for number, stage in enumerate(stages_of(module)):
        if stage.preact is not None:
            before = features[f"preact_stages.{number}"]
            assert before.min() < 0
            torch.testing.assert_close(
                before.relu().clamp(max=6 if "mobilenet" in name else torch.inf), features[f"stages.{number}"]
            )


def test_preactivations_of_torchvisions_resnet_are_the_sums_of_a_pass_by_hand() -> None:
    module = real("resnet18")
    by_hand, tapped = copy.deepcopy(module), TappedModel(module, ["preact_stages"])
    with torch.no_grad():
        _, features = tapped(images())
        sums = [by_hand.bn1(by_hand.conv1(images()))]
        maps = by_hand.maxpool(sums[0].relu())
        for number in range(1, 5):
            for block in by_hand.get_submodule(f"layer{number}"):
                inner = block.bn2(block.conv2(block.bn1(block.conv1(maps)).relu()))
                total = inner + (maps if block.downsample is None else block.downsample(maps))
                maps = total.relu()
            sums.append(total)
    for number, expected in enumerate(sums):
        torch.testing.assert_close(features[f"preact_stages.{number}"], expected)
        norm = "bn1" if number == 0 else f"layer{number}.1.bn2"
        assert torch.equal(tapped.norms()[f"preact_stages.{number}"].weight, module.get_parameter(f"{norm}.weight"))


def test_preactivations_of_torchvisions_vgg_are_what_its_layers_give_one_by_one() -> None:
    module = real("vgg13_bn")
    maps, before = images(), []
    with torch.no_grad():
        _, features = TappedModel(module, ["preact_stages"])(images())
        for layer, following in zip(module.features, [*module.features[1:], None], strict=True):
            if isinstance(layer, nn.ReLU) and isinstance(following, nn.MaxPool2d):
                before.append(maps.clone())
            maps = torch.relu(maps) if isinstance(layer, nn.ReLU) else layer(maps)
    assert len(before) == 5
    for number, expected in enumerate(before):
        torch.testing.assert_close(features[f"preact_stages.{number}"], expected)


def test_linear_bottlenecks_are_their_own_preactivations() -> None:
    module = real("mobilenet_v2")
    maps, ends = images(), {}
    with torch.no_grad():
        _, features = TappedModel(module, ["preact_stages", "stages"])(images())
        for number, block in enumerate(module.features):
            maps = ends[number] = block(maps).clone()
    for number, end in enumerate((1, 3, 6, 13, 17)):
        assert ends[end].min() < 0
        torch.testing.assert_close(features[f"preact_stages.{number}"], ends[end])
        torch.testing.assert_close(features[f"stages.{number}"], ends[end])


def test_torchvisions_swin_arrives_channels_first() -> None:
    module = built("swin_t").eval()
    with torch.no_grad():
        _, features = TappedModel(module, ["stages", "permute", "avgpool", "features.0.0"])(images())
        maps = module.features[:2](images())
    torch.testing.assert_close(features["stages.0"], maps.permute(0, 3, 1, 2))
    assert [tuple(features[tap].shape) for tap in ("permute", "avgpool", "features.0.0")] == [
        (2, 768, 2, 2),
        (2, 768),
        (2, 96, 16, 16),
    ]


@pytest.mark.parametrize("name", WITHOUT)
def test_a_network_whose_stages_no_activation_ends_is_refused_its_preactivations(name: str) -> None:
    module = on_meta(name)
    first = stages_of(module)[0].output
    with pytest.raises(UserError, match=f"no activation is known to end its stages \\({first}, "):
        check_taps(module, ["preact_stages"], name="the student")
    check_taps(module, ["stages"], name="the student")


def test_a_folded_teachers_preactivations_are_those_of_the_plain_network() -> None:
    module = real("timm:mobilenetv1_100")
    plain, folded = (LiveTeacher(copy.deepcopy(module), fold_batch_norm=folds) for folds in (False, True))
    batch = Batch(images=images(), targets=torch.zeros(2, dtype=torch.long))
    for teacher in (plain, folded):
        teacher.tap(["preact_stages"])
    expected, found = plain.observe(batch).features, folded.observe(batch).features
    assert folded.folded
    for tap in expected:
        torch.testing.assert_close(found[tap], expected[tap], rtol=1e-3, atol=1e-3)


def test_stages_that_the_network_names_but_does_not_have_are_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    network.feature_info = [{"num_chs": 4, "reduction": 1, "module": "block.0"}]  # as timm's twins and hrnet
    with pytest.raises(UserError, match=r"says that its stages are block.0 \(timm's feature_info\), but it has no"):
        check_taps(network, ["stages"], name="student")
