"""Networks that predict more than once: their heads by name, given apart in training and as their mean otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["CLASS_HEAD", "DISTILLED_HEAD", "MEAN", "gives_heads", "head_names", "named_heads", "open_heads_"]

CLASS_HEAD = "logits"  # learns from labels
DISTILLED_HEAD = "distilled"  # learns from a teacher
MEAN = "mean"  # of all heads' logits: what is deployed


def head_names(network: nn.Module) -> tuple[str, ...]:
    """Names of a network's heads, the one for labels first; ("logits",) where it has one.

    It says them as `head_names`; networks of timm's with distillation (DeiT, LeViT, EfficientFormer) do not, and have
    two.
    """
    network = _with_heads(network)
    names = getattr(network, "head_names", None)
    if names:
        return tuple(names)
    return (CLASS_HEAD, DISTILLED_HEAD) if hasattr(network, "set_distilled_training") else (CLASS_HEAD,)


def open_heads_(network: nn.Module, is_open: bool = True) -> None:
    """Let a network with several heads give each one's logits in training, and not their mean."""
    _with_heads(network).set_distilled_training(is_open)  # type: ignore[operator]


def gives_heads(network: nn.Module) -> bool:
    """Whether it gives each head's logits while it is trained."""
    return bool(getattr(_with_heads(network), "distilled_training", False))


def _with_heads(network: nn.Module) -> nn.Module:
    """The network itself, or what comes last in it where that is a chain, such as behind its normalisation."""
    is_chain = (
        isinstance(network, nn.Sequential) and len(network) > 0 and not hasattr(network, "set_distilled_training")
    )
    return _with_heads(network[-1]) if is_chain else network  # type: ignore[index]


def named_heads(network: nn.Module, output: Any) -> Any:
    """Output of a pass with its heads by name where it is a plain pair of them, as timm's; anything else as it is."""
    if isinstance(output, Mapping) or not isinstance(output, tuple | list):
        return output
    names = head_names(network)
    are_tensors = all(isinstance(logits, Tensor) for logits in output)
    return dict(zip(names, output, strict=True)) if are_tensors and len(names) == len(output) else output
