"""Names of tensors in the distillation field's published checkpoints, and files as its tools read them.

The layout is that of RepDistiller (Tian et al. 2020) and mdistiller (Zhao et al. 2022), which share their networks for
CIFAR: {"model": state dict}, plain or with the "module." of DataParallel. `load_weights` reads it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from understudy.utils.errors import UserError

__all__ = ["published_keys", "save_published"]

_Rules = tuple[tuple[str, str], ...]  # a pattern in our key, and what stands there in the published one

_WRN: _Rules = ((r"^(block\d)\.", r"\1.layer."), (r"\.shortcut\.", ".convShortcut."))
_IMAGENET_RESNET: _Rules = ((r"\.downsample\.", ".shortcut."), (r"^fc\.", "linear."))
_MOBILENETV2: _Rules = ((r"^classifier\.", "classifier.0."),)
_REDNET: _Rules = (  # mmclassification's, from which its authors' code is made
    (r"^conv1\.0\.", "stem.0.conv."),
    (r"^conv1\.1\.", "stem.0.bn."),
    (r"^conv1\.3\.", "stem.1."),
    (r"^conv1\.4\.", "stem.2."),
    (r"^conv1\.6\.", "stem.4.conv."),
    (r"^bn1\.", "stem.4.bn."),
    (r"\.reduce\.0\.", ".conv1.conv."),
    (r"\.reduce\.1\.", ".conv1.bn."),
    (r"\.span\.", ".conv2."),
)

_RULES: dict[str, _Rules] = {  # every other cifar network has the published names itself
    **dict.fromkeys(("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"), _WRN),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50"), _IMAGENET_RESNET),
    "mobilenetv2": _MOBILENETV2,
}


def published_keys(module: nn.Module) -> dict[str, str]:
    """Published names of a cifar network's or a RedNet's tensors by our own, of those alone whose names differ.

    Args:
        module: any network; empty where no name differs, and for networks of other families.
    """
    name = _architecture(module)
    rules = _REDNET if name.startswith("understudy_rednet") else _RULES.get(name.removeprefix("cifar_"), ())
    rules = rules if name.startswith(("cifar_", "understudy_rednet")) else ()
    published = {own: _replaced(own, rules) for own in module.state_dict()}
    return {own: theirs for own, theirs in published.items() if theirs != own}


def save_published(module: nn.Module, file: str | Path) -> None:
    """Write the weights of a cifar network as RepDistiller and mdistiller read them, whole or not at all.

    Args:
        module: the plain network (`Network.module`).
        file: what to write; its folder is made where it is missing.

    Raises:
        UserError: a network that the field has no published layout for.
    """
    if _cifar_name(module) is None:
        raise UserError(
            f"a {type(module).__name__} has no published layout, only networks of cifar:NAME have; "
            "torch.save(model.state_dict(), FILE) writes it under its own names"
        )
    file, theirs = Path(file), published_keys(module)
    state = {theirs.get(key, key): value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent, prefix=".saving-") as half_way:
        torch.save({"model": state}, Path(half_way) / file.name)
        os.replace(Path(half_way) / file.name, file)


def _cifar_name(module: nn.Module) -> str | None:
    """`vgg8` of a network that timm built as `cifar_vgg8`; None of any other."""
    name = _architecture(module)
    return name.removeprefix("cifar_") if name.startswith("cifar_") else None


def _architecture(module: nn.Module) -> str:
    """What timm's registry calls a network; "" of any other."""
    config = getattr(module, "pretrained_cfg", None)
    architecture = config.get("architecture") if isinstance(config, Mapping) else None
    return architecture if isinstance(architecture, str) else ""


def _replaced(key: str, rules: _Rules) -> str:
    for pattern, there in rules:
        key = re.sub(pattern, there, key)
    return key
