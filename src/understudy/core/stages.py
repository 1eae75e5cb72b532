"""Where the stages of a network end, and where their pre-activations are: as it declares them, or as it is built.

timm's networks declare their stages (feature_info) but no pre-activations; torchvision's declare neither. What follows
reads both off the classes that the two libraries build from. The same architecture has the same stages in both.
transformers' SegFormer has its stages as modules, and says nothing of them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

__all__ = ["Stage", "gives_channels_last", "plain_norm", "stages_of"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Where one stage can be looked at.

    The pre-activation is what enters the activation that ends the stage; in a linear bottleneck (MobileNetV2,
    EfficientNet), which no activation ends, the output itself, as in the code of OFD's authors.
    """

    output: str  # a module's path
    preact: str | None = None  # a module's path, or "path:input"
    norm: str | None = None  # path of the batch norm whose output is (a summand of) the pre-activation


def stages_of(module: nn.Module) -> list[Stage]:
    """The stages of a network, shallow ones first; empty where it neither declares them nor is of a known class.

    Pre-activations that a network declares are taken as they are. Otherwise they are offered for every stage that is
    not a pooling, or for none.
    """
    info = getattr(module, "feature_info", None)
    rows = info if isinstance(info, list) else list(getattr(info, "info", []))
    rows = [row for row in rows if isinstance(row, Mapping) and row.get("module")]
    if any(row.get("preact") for row in rows):
        return [Stage(row["module"], row.get("preact"), row.get("norm")) for row in rows]
    paths = [row["module"] for row in rows] or _stages_by_class(module)
    stages = [_stage_at(module, path) for path in paths]
    unpooled = [stage for stage in stages if not isinstance(_submodule(module, stage.output), _POOLINGS)]
    if unpooled and all(stage.preact for stage in unpooled):
        return stages
    return [Stage(path) for path in paths]


def gives_channels_last(module: nn.Module, tap: str) -> bool:
    """Whether what is at "path" or "path:input" is (B,H,W,D): in networks that say so, and in torchvision's Swin."""
    path, _, side = tap.partition(":")
    inner = _submodule(module, path)
    if isinstance(inner, nn.Conv2d | _POOLINGS):
        return False
    if path == "permute" and not side and _is_a(inner, "torchvision.ops.misc.Permute"):
        return False  # in front of its pooling, Swin puts the channels first again
    return getattr(module, "output_fmt", "NCHW") == "NHWC" or _is_a(module, f"{_TV}.swin_transformer.SwinTransformer")


def plain_norm(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """A frozen copy, without the activation that timm keeps in a norm."""
    copied = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    copied.load_state_dict(copy.deepcopy(norm.state_dict()), strict=False, assign=True)
    return copied.eval().requires_grad_(False)


_TV = "torchvision.models"
_SEGFORMER = "transformers.models.segformer.modeling_segformer.SegformerForSemanticSegmentation"
_POOLINGS = nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU, nn.LeakyReLU, nn.ELU)

# What ends a block of each class: its last activation, or "" where it ends in a sum; and the batch norm before that.
_BLOCKS = {
    "timm.models.resnet.BasicBlock": ("act2:input", "bn2"),
    "timm.models.resnet.Bottleneck": ("act3:input", "bn3"),
    "timm.models.res2net.Bottle2neck": ("relu:input", "bn3"),
    "timm.models.resnest.ResNestBottleneck": ("act3:input", "bn3"),
    "timm.models.sknet.SelectiveKernelBasic": ("act:input", "conv2.bn"),
    "timm.models.sknet.SelectiveKernelBottleneck": ("act:input", "conv3.bn"),
    "timm.models.regnet.Bottleneck": ("act3:input", "conv3.bn"),
    "timm.models._efficientnet_blocks.InvertedResidual": ("", "bn3"),
    "timm.models._efficientnet_blocks.EdgeResidual": ("", "bn2"),
    "timm.models._efficientnet_blocks.UniversalInvertedResidual": ("", "pw_proj.bn"),
    f"{_TV}.resnet.BasicBlock": ("relu:input", "bn2"),  # the last of the activation's several calls counts
    f"{_TV}.resnet.Bottleneck": ("relu:input", "bn3"),
    f"{_TV}.regnet.ResBottleneckBlock": ("activation:input", "f.c.1"),
    f"{_TV}.mnasnet._InvertedResidual": ("", "layers.7"),
    f"{_TV}.mobilenetv2.InvertedResidual": ("", "conv"),  # a Sequential stands for the last batch norm in it
    f"{_TV}.mobilenetv3.InvertedResidual": ("", "block"),
    f"{_TV}.efficientnet.MBConv": ("", "block"),
    f"{_TV}.efficientnet.FusedMBConv": ("", "block"),
}
# Norms with an activation inside, and blocks that end in one unless they add their input behind it.
_ACTIVATED = {
    "timm.layers.norm_act.BatchNormAct2d": "",
    "timm.layers.conv_bn_act.ConvNormAct": "bn",
    "timm.models._efficientnet_blocks.ConvBnAct": "bn1",
    "timm.models._efficientnet_blocks.DepthwiseSeparableConv": "bn2",
}


def _stage_at(module: nn.Module, path: str) -> Stage:
    """The stage that ends with the module at `path`, its pre-activation where its last block is of a known class."""
    end, inner = path, _submodule(module, path)
    if isinstance(inner, _ACTIVATIONS):
        return Stage(path, f"{path}:input", _norm_in_front(module, path))
    while inner is not None and (isinstance(inner, nn.Sequential) or _is_a(inner, "timm.models.regnet.RegStage")):
        children: list[tuple[str, nn.Module]] = list(inner.named_children())
        if not children:
            break
        name, last = children[-1]
        if isinstance(last, _ACTIVATIONS):
            return Stage(path, f"{end}.{name}:input", _norm_in_front(module, f"{end}.{name}"))
        end, inner = f"{end}.{name}", last
    for kind, norm in _ACTIVATED.items():
        if inner is not None and _is_a(inner, kind):
            return _activated_stage(path, end, inner, norm)
    for kind, (activation, norm) in _BLOCKS.items():
        if inner is not None and _is_a(inner, kind):
            found = _last_norm(inner, norm)
            return Stage(path, f"{end}.{activation}" if activation else path, f"{end}.{found}" if found else None)
    return Stage(path)


def _activated_stage(path: str, end: str, block: nn.Module, norm: str) -> Stage:
    """A stage whose last norm has an activation inside, named "act"; an identity where the block is linear."""
    norm_path = f"{end}.{norm}" if norm else end
    activation = _submodule(block, f"{norm}.act".lstrip("."))
    inner = _submodule(block, norm) if norm else block
    if activation is None and not isinstance(inner, nn.BatchNorm2d | nn.Identity):
        return Stage(path, path if getattr(block, "has_skip", False) else f"{norm_path}:input")  # the norm is folded
    if isinstance(activation, nn.Identity) or activation is None:
        return Stage(path, path, norm_path)  # the sum with the block's input, if there is one
    if getattr(block, "has_skip", False):
        return Stage(path, path)  # the input is added behind the activation: no norm tells how the sum is spread
    return Stage(path, f"{norm_path}.act:input", norm_path)


def _last_norm(block: nn.Module, name: str) -> str | None:
    """The path of a batch norm in a block: `name` itself, or what a Sequential of that name ends in."""
    inner = _submodule(block, name)
    while isinstance(inner, nn.Sequential):
        last, inner = list(inner.named_children())[-1]
        name = f"{name}.{last}"
    return name if isinstance(inner, nn.BatchNorm2d) else None


def _norm_in_front(module: nn.Module, path: str) -> str | None:
    """The batch norm that is defined right before the module at `path`."""
    parent_path, _, name = path.rpartition(".")
    children = list(module.get_submodule(parent_path).named_children())
    place = [child for child, _ in children].index(name)
    before, norm = children[place - 1] if place else ("", None)
    return f"{parent_path}.{before}".lstrip(".") if isinstance(norm, nn.BatchNorm2d) else None


def _stages_by_class(module: nn.Module) -> list[str]:
    if _is_a(module, _SEGFORMER):
        return [path for path, _ in module.named_modules() if re.fullmatch(r"segformer\.stages\.\d+", path)]
    for kind, paths in _NETWORKS.items():
        if _is_a(module, f"{_TV}.{kind}"):
            return list(paths(module))
    return []


def _named(*paths: str) -> Callable[[nn.Module], Iterator[str]]:
    return lambda module: iter(paths)


def _before_each_stride(container: str, *, leaves_out: int = 0) -> Callable[[nn.Module], Iterator[str]]:
    """The children of a Sequential after which the maps become smaller, and its last one."""

    def paths(module: nn.Module) -> Iterator[str]:
        children = list(module.get_submodule(container).named_children())
        children = children[: len(children) - leaves_out]
        for (name, _), following in zip(children, [child for _, child in children[1:]] + [None], strict=True):
            if following is None or _shrinks(following):
                yield f"{container}.{name}"

    return paths


def _shrinks(child: nn.Module) -> bool:
    layers = [layer for layer in child.modules() if isinstance(layer, nn.Conv2d | nn.MaxPool2d)]
    return any(layer.stride not in (1, (1, 1)) for layer in layers)


def _encoder_layers(module: nn.Module) -> Iterator[str]:
    return (f"encoder.layers.{name}" for name, _ in module.get_submodule("encoder.layers").named_children())


_NETWORKS: dict[str, Callable[[nn.Module], Iterator[str]]] = {
    "resnet.ResNet": _named("relu", "layer1", "layer2", "layer3", "layer4"),
    "vgg.VGG": _before_each_stride("features"),
    "mobilenetv2.MobileNetV2": _before_each_stride("features", leaves_out=1),  # but for the wide last convolution
    "mobilenetv3.MobileNetV3": _before_each_stride("features"),  # timm counts it here
    "efficientnet.EfficientNet": _before_each_stride("features", leaves_out=1),
    "mnasnet.MNASNet": _before_each_stride("layers", leaves_out=3),
    "regnet.RegNet": _named("stem", *(f"trunk_output.block{number}" for number in range(1, 5))),
    "convnext.ConvNeXt": _named("features.1", "features.3", "features.5", "features.7"),
    "swin_transformer.SwinTransformer": _named("features.1", "features.3", "features.5", "features.7"),
    "vision_transformer.VisionTransformer": _encoder_layers,
    "shufflenetv2.ShuffleNetV2": _named("conv1", "stage2", "stage3", "stage4"),
    "densenet.DenseNet": _named("features.relu0", *(f"features.denseblock{number}" for number in range(1, 5))),
}


def _is_a(module: object, kind: str) -> bool:
    """Whether `module` is of the class with that full name, which so need not be imported."""
    return any(f"{parent.__module__}.{parent.__qualname__}" == kind for parent in type(module).__mro__)


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None
