"""What the methods on deep features share: batch-normalised convolutions, unit rows, the teacher's own classifier."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from understudy.methods.base import Context, TapShapes
from understudy.utils.errors import UserError

__all__ = ["conv_norm", "deepest_stage", "frozen_classifier", "pooled_to", "tap_channels", "unit_rows"]

_SMALLEST_NORM = 1e-6  # bounds the gradient at a zero row, which is 1e12 with torch's 1e-12


def pooled_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (M, D, H, W) averaged down to at most `size` (height, width); a side that is no longer stays."""
    height, width = min(maps.shape[2], size[0]), min(maps.shape[3], size[1])
    return maps if maps.shape[2:] == (height, width) else F.adaptive_avg_pool2d(maps, (height, width))


def unit_rows(rows: Tensor) -> Tensor:
    """Rows (M, D) at length 1; those shorter than 1e-6 are divided by 1e-6, so that a zero row stays zero."""
    return F.normalize(rows, dim=1, eps=_SMALLEST_NORM)


def conv_norm(in_channels: int, out_channels: int, *, kernel_size: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Convolution without bias and its batch norm, (M, in_channels, H, W) to (M, out_channels, H, W)."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return convolution, nn.BatchNorm2d(out_channels)


def frozen_classifier(context: Context, *, method: str) -> nn.Linear:
    """The teacher's last layer as an affine layer (M, D) to (M, C_t) that is not trained.

    Raises:
        UserError: the teacher has no affine last layer.
    """
    given = context.teacher.classifier
    if isinstance(given, nn.Linear) or (isinstance(given, nn.Conv2d) and given.kernel_size == (1, 1)):
        # A layer of our own, since the copy in the context still carries the hooks of the teacher's taps.
        weight, bias = given.weight.detach().flatten(1), given.bias
        layer = nn.Linear(
            weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype
        )
        layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias.detach()})
        return layer.requires_grad_(False)
    found = "it has none" if given is None else f"its last layer is a {type(given).__name__}"
    raise UserError(
        f"method {method!r} sends the student's features through the teacher's affine classifier, but {found}; "
        "take a teacher that ends in one, or a method that needs none, such as 'projector'"
    )


def deepest_stage(shapes: TapShapes, tap: str, *, setting: str) -> str:
    """The last of a group of stages ("stages", "preact_stages"), or the tap itself where it names a single one.

    Raises:
        UserError: neither is among the tapped features.
    """
    stages = [name for name in shapes if name.partition(".")[0] == tap and name.partition(".")[2].isdigit()]
    if not stages and tap not in shapes:
        raise UserError(f"{setting} {tap!r} is none of the tapped features ({', '.join(shapes)}); name one of them")
    return max(stages, key=lambda name: int(name.partition(".")[2]), default=tap)


def tap_channels(shapes: TapShapes, tap: str, *, setting: str) -> int:
    """Channels of one tapped feature.

    Raises:
        UserError: the name stands for several.
    """
    if tap not in shapes:
        raise UserError(f"{setting} {tap!r} stands for several features ({', '.join(shapes)}); name one of them")
    return shapes[tap].channels
