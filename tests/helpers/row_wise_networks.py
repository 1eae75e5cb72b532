"""Networks that take every image for itself: group norm in place of batch norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from understudy.models import create_model


def resnet8(num_classes: int, width: float = 0.25) -> nn.Module:
    """cifar:resnet8 with its stages, pre-activations and classifier."""
    return _row_wise(create_model("cifar:resnet8", num_classes=num_classes, weights="none", kwargs={"width": width}))


def dropout(num_classes: int) -> nn.Module:
    """The same with dropout, which draws."""
    module = resnet8(num_classes)
    module.layer3.append(nn.Dropout(0.5))
    return module


def segmenter(num_classes: int) -> nn.Module:
    """deeplabv3 on a small ResNet, with an auxiliary head, without dropout."""
    return _row_wise(_segmenter(num_classes))


def segmenter_with_batch_norms(num_classes: int) -> nn.Module:
    """The same as it is built, but for dropout."""
    module: nn.Module = _segmenter(num_classes).module
    return module


def _segmenter(num_classes: int) -> Any:
    kwargs = {"width": 8, "channels": [8, 8, 16, 16], "stem_width": 8}
    network = create_model("deeplabv3:resnet10t", num_classes=num_classes, weights="none", kwargs=kwargs)
    for child in network.module.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
    return network


def _row_wise(network: Any) -> nn.Module:
    module: nn.Module = network.module
    norms = [(path, child) for path, child in module.named_modules() if isinstance(child, nn.BatchNorm2d)]
    for path, norm in norms:
        parent, _, name = path.rpartition(".")
        group_norm = nn.GroupNorm(2, norm.num_features)
        nn.init.uniform_(group_norm.weight, 0.5, 1.5)
        setattr(module.get_submodule(parent), name, group_norm.to(torch.get_default_dtype()))
    return module
