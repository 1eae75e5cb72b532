"""What stands between the maps of two stages: one size, one precision, and a convolution that makes one shape."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.core.taps import TapShape
from understudy.methods.base import at_least_float32
from understudy.utils.errors import UserError

__all__ = [
    "Paraphraser",
    "as_map",
    "comparable_maps",
    "conv_regressor",
    "factor_encoder",
    "full_precision",
    "on_one_grid",
]

_LARGEST_KERNEL = 9  # beyond it the connector would have more weights than most students


def as_map(feature: Tensor) -> Tensor:
    """A vector (M, D) as a map (M, D, 1, 1); a map as it is.

    Raises:
        UserError: neither.
    """
    if feature.ndim not in (2, 4):
        raise UserError(
            f"a map is (M, D, H, W), or a vector (M, D), but got {tuple(feature.shape)}; lay out tokens (M, N, D) as "
            "a map first"
        )
    return feature[:, :, None, None] if feature.ndim == 2 else feature


def comparable_maps(student: Tensor, teacher: Tensor, *, channels_agree: bool = False) -> tuple[Tensor, Tensor]:
    """Both sides in at least float32 and at one size, the larger averaged down to the smaller; the teacher's detached.

    Args:
        student: (M, D_s, H_s, W_s) or (M, D_s).
        teacher: (M, D_t, H_t, W_t) or (M, D_t).
        channels_agree: refuse D_s that is not D_t.

    Returns:
        (M, D_s, H, W) and (M, D_t, H, W), H and W the smaller of either side's.

    Raises:
        UserError: other rows on one side than on the other, or channels that do not agree.
    """
    student, teacher = as_map(student), as_map(teacher.detach())
    if len(student) != len(teacher) or (channels_agree and student.shape[1] != teacher.shape[1]):
        raise UserError(
            f"features of {tuple(student.shape)} and {tuple(teacher.shape)} cannot be compared; give the same rows on "
            f"both sides{', and bring the student to the channels of the teacher first' if channels_agree else ''}"
        )
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    first, second = (
        maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)
        for maps in (at_least_float32(student), at_least_float32(teacher))
    )
    return first, second


def on_one_grid(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Maps on the smaller of their two grids, in at least float32; the teacher's detached.

    A grid that is a whole multiple is averaged block by block, another one is interpolated (bilinear, antialiased), as
    a vision transformer's 14x14 patches beside a network's 6x6 places.

    Args:
        student: (M, D_s, H_s, W_s) or (M, D_s).
        teacher: (M, D_t, H_t, W_t) or (M, D_t).

    Returns:
        (M, D_s, H, W) and (M, D_t, H, W), H and W the smaller of either side's.
    """
    both = at_least_float32(as_map(student)), at_least_float32(as_map(teacher.detach()))
    sides = min(maps.shape[2] for maps in both), min(maps.shape[3] for maps in both)
    first, second = (_on_grid(maps, sides) for maps in both)
    return first, second


def _on_grid(maps: Tensor, sides: tuple[int, int]) -> Tensor:
    if maps.shape[2:] == sides:
        return maps
    if maps.shape[2] % sides[0] == 0 and maps.shape[3] % sides[1] == 0:
        return F.adaptive_avg_pool2d(maps, sides)
    return F.interpolate(maps, sides, mode="bilinear", align_corners=False, antialias=True)


def full_precision(tensor: Tensor) -> torch.autocast:
    """No autocast on the tensor's device: products of a loss stay in the precision of its factors."""
    return torch.autocast(tensor.device.type, enabled=False)


def conv_regressor(student: TapShape, teacher: TapShape, *, has_relu: bool = True) -> nn.Sequential:
    """Convolution, batch norm and, if asked for, ReLU, from the student's shape onto the teacher's.

    The field's ConvReg: 3x3 with stride 2 where the student's map is twice as large; a transposed 4x4 with stride 2
    where it is half as large; else, where it is larger or equal, an unpadded one that leaves the teacher's size, up
    to a kernel of 9. What remains is brought to the smaller size by averaging, and the convolution is 1x1.
    (M, D_s, H_s, W_s) to (M, D_t, H, W).
    """
    (height, width), (to_height, to_width) = _size(student), _size(teacher)
    kernel = (1 + height - to_height, 1 + width - to_width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if (height, width) == (2 * to_height, 2 * to_width):
        layers["conv"] = nn.Conv2d(student.channels, teacher.channels, 3, stride=2, padding=1)
    elif (2 * height, 2 * width) == (to_height, to_width):
        layers["conv"] = nn.ConvTranspose2d(student.channels, teacher.channels, 4, stride=2, padding=1)
    elif min(kernel) >= 1 and max(kernel) <= _LARGEST_KERNEL:
        layers["conv"] = nn.Conv2d(student.channels, teacher.channels, kernel)
    else:
        layers["pool"] = nn.AdaptiveAvgPool2d((min(height, to_height), min(width, to_width)))
        layers["conv"] = nn.Conv2d(student.channels, teacher.channels, 1)
    layers["bn"] = nn.BatchNorm2d(teacher.channels)
    if has_relu:
        layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


def factor_encoder(in_channels: int, num_factors: int, *, has_batch_norm: bool) -> nn.Sequential:
    """Three 3x3 convolutions, each with LeakyReLU(0.1): (M, in_channels, H, W) to (M, num_factors, H, W)."""
    widths = [(in_channels, in_channels), (in_channels, num_factors), (num_factors, num_factors)]
    return nn.Sequential(
        *(
            layer
            for ours, theirs in widths
            for layer in (
                nn.Conv2d(ours, theirs, 3, padding=1),
                nn.BatchNorm2d(theirs) if has_batch_norm else nn.Identity(),
                nn.LeakyReLU(0.1),
            )
        )
    )


class Paraphraser(nn.Module):
    """Autoencoder of the teacher's map: (M, D, H, W) to (M, K, H, W) and back."""

    def __init__(self, channels: int, num_factors: int) -> None:
        super().__init__()
        self.encoder = factor_encoder(channels, num_factors, has_batch_norm=False)
        widths = [(num_factors, num_factors), (num_factors, channels), (channels, channels)]
        self.decoder = nn.Sequential(
            *(
                layer
                for ours, theirs in widths
                for layer in (nn.ConvTranspose2d(ours, theirs, 3, padding=1), nn.Identity(), nn.LeakyReLU(0.1))
            )
        )

    def forward(self, maps: Tensor) -> Tensor:
        """The map, told again."""
        again: Tensor = self.decoder(self.encoder(maps))
        return again


def _size(shape: TapShape) -> tuple[int, int]:
    return shape.height or 1, shape.width or 1
