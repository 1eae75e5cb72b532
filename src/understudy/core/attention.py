"""Where a vision transformer attends: the layer that gives the queries, keys and values of its last block."""

from __future__ import annotations

from torch import nn

__all__ = ["ATTENTION", "attention_path"]

ATTENTION = "attention"  # the tap
_KINDS = ("timm.layers.attention.Attention", "timm.models.vision_transformer.Attention")


def attention_path(network: nn.Module) -> str | None:
    """Path of the layer that gives (B,N,3D) queries, keys and values of the last block; None where there is none.

    Of networks whose blocks attend over all patches of an image (timm's vision transformers); windows, as Swin's, and
    libraries that keep the three apart have no such layer.
    """
    paths = [
        f"{path}.qkv"
        for path, module in network.named_modules()
        if _is_attention(module) and isinstance(getattr(module, "qkv", None), nn.Linear)
    ]
    return paths[-1] if paths else None


def _is_attention(module: nn.Module) -> bool:
    return any(f"{kind.__module__}.{kind.__qualname__}" in _KINDS for kind in type(module).__mro__)
