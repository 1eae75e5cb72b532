"""The field's residual networks for 32x32 images: resnet8 ... resnet110 and the wide 8x4 and 32x4.

Registered with timm as `cifar_<name>`, since a plain `resnet18` would overwrite timm's own. Parameter names are
those of the published checkpoints (conv1, bn1, layer1.0.conv1, ..., fc).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["CifarResNet"]

_WIDTHS = (16, 16, 32, 64)  # stem and three stages
_WIDE = (32, 64, 128, 256)  # "x4": the stages are four times as wide, the stem only twice
_STRIDES = (1, 2, 2)


class CifarResNet(nn.Module):
    """Residual network with a 3x3 stem and three stages of basic blocks at strides 1, 2, 2.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, with 1x1 convolutions where a
    shortcut changes size, as the distillation field uses it (Tian et al., "Contrastive Representation
    Distillation", ICLR 2020).

    Differs from: the field's code, which pools an 8x8 window and so takes 32x32 images only. Here the pooling is
    global: the same at 32x32, and any other size works. The stem's pre-activation is what enters its ReLU; there
    it is what leaves it.

    Args:
        depth: number of weighted layers, 6n + 2 with n blocks in each stage.
        widths: channels of the stem and of the three stages.
        num_classes: C; 0 leaves the classifier out.
        in_chans: channels of the images.
        width: factor on all widths, so that `width=0.25` is a quarter of the network.

    Shapes: (B,in_chans,H,W) images to (B,C) logits.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(
        self,
        depth: int,
        widths: Sequence[int] = _WIDTHS,
        *,
        num_classes: int = 100,
        in_chans: int = 3,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        stem, *stages = (max(1, round(channels * width)) for channels in widths)
        blocks_per_stage = (depth - 2) // 6
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = stages[-1]
        self.conv1 = _conv3x3(in_chans, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.act1 = nn.ReLU(inplace=True)
        self.feature_info = [{"num_chs": stem, "reduction": 1, "module": "act1", "preact": "bn1", "norm": "bn1"}]
        before, reduction = stem, 1
        for number, (channels, stride) in enumerate(zip(stages, _STRIDES, strict=True), start=1):
            reduction *= stride
            self.add_module(f"layer{number}", _stage(before, channels, stride, blocks_per_stage))
            self.feature_info.append(
                {
                    "num_chs": channels,
                    "reduction": reduction,
                    "module": f"layer{number}",
                    "preact": f"layer{number}.{blocks_per_stage - 1}.add",
                    "norm": f"layer{number}.{blocks_per_stage - 1}.bn2",
                }
            )
            before = channels
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = _classifier(self.num_features, num_classes)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """(B,C) logits."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """(B,D,H,W) output of the last stage."""
        maps = self.act1(self.bn1(self.conv1(images)))
        maps = self.layer1(maps)
        maps = self.layer2(maps)
        return self.layer3(maps)  # type: ignore[no-any-return]

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """(B,C) logits of the last stage's output, or its (B,D) mean with `pre_logits`; timm's signature."""
        pooled = self.global_pool(maps).flatten(1)
        return pooled if pre_logits else self.fc(pooled)  # type: ignore[no-any-return]

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh classifier of `num_classes` in place of the present one."""
        self.num_classes = num_classes
        self.fc = _classifier(self.num_features, num_classes)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))
        self.add = _Add()
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.act1(self.bn1(self.conv1(maps)))
        inner = self.bn2(self.conv2(inner))
        shortcut = maps if self.downsample is None else self.downsample(maps)
        return self.act2(self.add(inner, shortcut))  # type: ignore[no-any-return]


class _Add(nn.Module):
    """A sum that has a name, so that a stage's pre-activation can be tapped."""

    def forward(self, inner: Tensor, shortcut: Tensor) -> Tensor:
        return inner + shortcut


def _stage(in_channels: int, channels: int, stride: int, num_blocks: int) -> nn.Sequential:
    first = _Block(in_channels, channels, stride)
    return nn.Sequential(first, *(_Block(channels, channels, 1) for _ in range(num_blocks - 1)))


def _conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)


def _classifier(num_features: int, num_classes: int) -> nn.Module:
    return nn.Linear(num_features, num_classes) if num_classes > 0 else nn.Identity()


_DEPTHS_AND_WIDTHS: dict[str, tuple[int, tuple[int, ...]]] = {
    "cifar_resnet8": (8, _WIDTHS),
    "cifar_resnet14": (14, _WIDTHS),
    "cifar_resnet20": (20, _WIDTHS),
    "cifar_resnet32": (32, _WIDTHS),
    "cifar_resnet44": (44, _WIDTHS),
    "cifar_resnet56": (56, _WIDTHS),
    "cifar_resnet110": (110, _WIDTHS),
    "cifar_resnet8x4": (8, _WIDE),
    "cifar_resnet32x4": (32, _WIDE),
}

default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 100,
            "input_size": (3, 32, 32),
            "crop_pct": 1.0,
            "mean": (0.0, 0.0, 0.0),  # the data's statistics take this place when a network is made
            "std": (1.0, 1.0, 1.0),
            "first_conv": "conv1",
            "classifier": "fc",
        }
        for name in _DEPTHS_AND_WIDTHS
    }
)


def _register(name: str) -> None:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        depth, widths = _DEPTHS_AND_WIDTHS[name]
        module: nn.Module = build_model_with_cfg(
            CifarResNet,
            name,
            pretrained,
            feature_cfg={"out_indices": (0, 1, 2, 3)},
            depth=depth,
            widths=widths,
            **kwargs,
        )
        return module

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"{name.removeprefix('cifar_')} for 32x32 images; see CifarResNet."
    register_model(entrypoint)  # timm calls an entry point by its __name__


for _name in _DEPTHS_AND_WIDTHS:
    _register(_name)
