"""What stands between a student's features and a teacher's: pooling and small trainable networks.

Weights come from torch's default initialisation and so from the global random state, which the caller seeds.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["linear_connector", "mlp_connector", "pooled"]


def pooled(feature: Tensor) -> Tensor:
    """A map (M, D, H, W) averaged over its positions to (M, D); a vector (M, D) as it is."""
    return feature.mean(dim=(2, 3)) if feature.ndim == 4 else feature


def linear_connector(in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Linear:
    """One affine layer, (M, in_channels) to (M, out_channels)."""
    return nn.Linear(in_channels, out_channels, bias=bias)


def mlp_connector(in_channels: int, out_channels: int, *, hidden_channels: int, bias: bool = True) -> nn.Sequential:
    """Two affine layers with a ReLU between them, (M, in_channels) to (M, out_channels)."""
    return nn.Sequential(
        nn.Linear(in_channels, hidden_channels, bias=bias),
        nn.ReLU(),
        nn.Linear(hidden_channels, out_channels, bias=bias),
    )
