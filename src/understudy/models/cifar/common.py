"""What the networks for small images share: the head, its first weights, and their place in timm's registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = [
    "CifarNetwork",
    "FeatureInfo",
    "classifier",
    "conv",
    "initialise_convolutions",
    "initialise_linear",
    "register_cifar",
    "scaled",
]

FeatureInfo = dict[str, str | int]  # one stage, as timm's feature_info has it, with "preact" and "norm" beside "module"


class CifarNetwork(nn.Module):
    """Features, their mean over all places, and a classifier; a family says what the features are.

    The pooling is global: any image size works.

    Shapes: (B,in_chans,H,W) images to (B,C) logits.
    """

    classifier_name: ClassVar[str] = "fc"
    feature_info: list[FeatureInfo]

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.feature_info = []

    def forward(self, images: Tensor) -> Tensor:
        """(B,C) logits."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """(B,D,H,W) maps that the head pools."""
        raise NotImplementedError

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """(B,C) logits of the last maps, or their (B,D) mean with `pre_logits`; timm's signature."""
        pooled = self.global_pool(maps).flatten(1)
        return pooled if pre_logits else self.get_classifier()(pooled)  # type: ignore[no-any-return]

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh classifier of `num_classes` in place of the present one; 0 leaves it out."""
        self.num_classes = num_classes
        setattr(self, self.classifier_name, classifier(self.num_features, num_classes))

    def _add_head(self, num_features: int) -> None:
        self.num_features = self.head_hidden_size = num_features
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.reset_classifier(self.num_classes)


def classifier(num_features: int, num_classes: int) -> nn.Module:
    """A linear layer, or nothing for no classes."""
    return nn.Linear(num_features, num_classes) if num_classes > 0 else nn.Identity()


def conv(in_channels: int, channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size of the maps at stride 1."""
    return nn.Conv2d(in_channels, channels, size, stride=stride, padding=size // 2, groups=groups, bias=False)


def initialise_convolutions(network: nn.Module) -> None:
    """Draw the convolutions from a normal distribution of variance 2 / (size^2 * channels out); zero their biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def initialise_linear(network: nn.Module, std: float | None = None) -> None:
    """Zero the biases of linear layers; draw their weights from a normal distribution where `std` is given."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
            if std is not None:
                nn.init.normal_(module.weight, std=std)


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """`channels` times `width`, rounded to a multiple of `multiple`, which is also the least."""
    return multiple * max(1, round(channels * width / multiple))


default_cfgs: dict[str, Any] = {}  # timm looks for this name in the module of an entry point


def register_cifar(
    build: Callable[..., nn.Module],
    settings: Mapping[str, Mapping[str, Any]],
    *,
    num_stages: int,
    classifier_name: str = "fc",
    first_conv: str = "conv1",
    feature_cls: str = "list",
) -> None:
    """Let timm build networks as `cifar_<name>`, since a plain `resnet18` would overwrite timm's own.

    Args:
        build: a family; called with the settings of a name, and with timm's num_classes and in_chans.
        settings: by name.
        num_stages: how many rows its feature_info has.
        classifier_name: its last layer.
        first_conv: its first layer.
        feature_cls: how timm takes features out: "list" where all stages are direct children, else "hook".
    """
    config = {
        "num_classes": 100,
        "input_size": (3, 32, 32),
        "crop_pct": 1.0,
        "mean": (0.0, 0.0, 0.0),  # the data's statistics take this place when a network is made
        "std": (1.0, 1.0, 1.0),
        "first_conv": first_conv,
        "classifier": classifier_name,
    }
    default_cfgs.update(generate_default_cfgs({f"cifar_{name}": dict(config) for name in settings}))
    feature_cfg = {"out_indices": tuple(range(num_stages)), "feature_cls": feature_cls}
    for name, own in settings.items():
        register_model(_entrypoint(f"cifar_{name}", build, own, feature_cfg))


def _entrypoint(
    name: str, build: Callable[..., nn.Module], own: Mapping[str, Any], feature_cfg: Mapping[str, Any]
) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        # timm takes entries out of the feature_cfg that it is given.
        module: nn.Module = build_model_with_cfg(
            build, name, pretrained, feature_cfg=dict(feature_cfg), **{**own, **kwargs}
        )
        return module

    entrypoint.__name__ = entrypoint.__qualname__ = name  # timm calls an entry point by its __name__
    entrypoint.__doc__ = f"{name.removeprefix('cifar_')} for small images; see {build.__name__}."
    return entrypoint
