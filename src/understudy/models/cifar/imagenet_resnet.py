"""ResNet-18, -34 and -50 for 32x32 images: timm's networks behind a 3x3 stem without pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from understudy.models.cifar.common import FeatureInfo, conv, initialise_convolutions, register_cifar, scaled

__all__ = ["cifar_imagenet_resnet"]

_STEM = 64
_WIDTHS = (64, 128, 256, 512)


def cifar_imagenet_resnet(
    *, block: Any, layers: Sequence[int], num_classes: int = 100, in_chans: int = 3, width: float = 1.0
) -> nn.Module:
    """An ImageNet residual network for small images: a 3x3 stem at stride 1, and no pooling behind it.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, table 1, as the distillation field uses
    it on CIFAR-100. Stages are the stem and the four groups of blocks.

    Differs from: the field's code, whose pre-activation of the stem is what leaves its ReLU; here it is what enters.

    Args:
        block: timm's BasicBlock or Bottleneck.
        layers: number of blocks in each of the four groups.
        num_classes: C; 0 leaves the classifier out.
        in_chans: channels of the images.
        width: factor on all widths; the stem's is rounded to an even one.

    Shapes: (B,in_chans,H,W) images to (B,C) logits.
    """
    stem, channels = scaled(_STEM, width, 2), tuple(scaled(number, width) for number in _WIDTHS)
    network: nn.Module = ResNet(
        block,
        tuple(layers),
        num_classes=num_classes,
        in_chans=in_chans,
        channels=channels,
        stem_type="deep",  # whose width can be chosen; its convolutions are replaced
        stem_width=stem // 2,
        zero_init_last=False,
    )
    network.conv1 = conv(in_chans, stem, 3)
    network.maxpool = nn.Identity()
    initialise_convolutions(network.conv1)
    last = 2 if block is BasicBlock else 3
    info: list[FeatureInfo] = [{"num_chs": stem, "reduction": 1, "module": "act1", "preact": "bn1", "norm": "bn1"}]
    for number, (inner, num_blocks) in enumerate(zip(channels, layers, strict=True), start=1):
        path = f"layer{number}.{num_blocks - 1}"
        info.append(
            {
                "num_chs": inner * block.expansion,
                "reduction": 2 ** (number - 1),
                "module": f"layer{number}",
                "preact": f"{path}.act{last}:input",
                "norm": f"{path}.bn{last}",
            }
        )
    network.feature_info = info  # type: ignore[assignment]
    return network


register_cifar(
    cifar_imagenet_resnet,
    {
        "resnet18": {"block": BasicBlock, "layers": (2, 2, 2, 2)},
        "resnet34": {"block": BasicBlock, "layers": (3, 4, 6, 3)},
        "resnet50": {"block": Bottleneck, "layers": (3, 4, 6, 3)},
    },
    num_stages=5,
)
