"""What follows crop and flip: RandAugment, colour jitter and erasing, on one picture at one or two sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms.v2 import ColorJitter
from torchvision.transforms.v2 import functional as transforms

from understudy.data.augment.config import AugmentParts
from understudy.data.augment.policies import image_policy
from understudy.data.sources.base import as_unit
from understudy.utils.seeding import drawing_state, restore_drawing_state

__all__ = ["with_parts"]


def with_parts(
    pictures: Sequence[Tensor], parts: AugmentParts, *, interpolation: str, mean: Sequence[float], std: Sequence[float]
) -> list[Tensor]:
    """The pictures after the parts that are on: the same draws at every size, which the other sizes do not change.

    Erased rectangles hold what the field puts there, noise of N(0,1) in the student's normalised images: timm erases
    after normalising. Here normalising is each model's own first operation, so the noise is drawn there and taken back
    through `mean` and `std`; it leaves [0,1], and a model with other statistics sees it shifted as it sees the image.

    Args:
        pictures: one image, rendered as (D,H,W) for the student and perhaps at another size for the teacher.
        parts: settings.
        interpolation: of what RandAugment turns and shifts.
        mean: per channel in [0,1], of the student's normalisation.
        std: likewise.

    Returns:
        As many pictures, of the same dtype; float32 where `erasing` is on.
    """
    shown = list(pictures)
    if parts.policy is not None:
        shown = _with_equal_draws(shown, lambda image: _by_policy(image, parts, tuple(mean), interpolation))
    if parts.color_jitter:
        shown = _with_equal_draws(shown, ColorJitter(*[parts.color_jitter] * 3))
    if parts.erasing:
        shown = _erased(shown, parts, mean, std)
    return shown


def _with_equal_draws(pictures: list[Tensor], transform: Callable[[Tensor], Tensor]) -> list[Tensor]:
    before = drawing_state() if len(pictures) > 1 else None  # 0.1 ms, nearly all of it numpy's
    shown = [transform(pictures[0])]
    for picture in pictures[1:]:
        assert before is not None
        restore_drawing_state(before)
        shown.append(transform(picture))
    return shown


def _by_policy(image: Tensor, parts: AugmentParts, mean: tuple[float, ...], interpolation: str) -> Tensor:
    assert parts.policy is not None
    policy = image_policy(parts.policy, min(image.shape[-2:]), mean, interpolation)
    shown: Tensor = transforms.pil_to_tensor(policy(transforms.to_pil_image(image)))
    return shown


def _erased(pictures: list[Tensor], parts: AugmentParts, mean: Sequence[float], std: Sequence[float]) -> list[Tensor]:
    """timm's RandomErasing draws rectangle and noise on an empty canvas, once for all sizes."""
    canvas = torch.full(pictures[0].shape, torch.nan)
    RandomErasing(parts.erasing, mode=parts.erase_mode, device="cpu")(canvas)  # type: ignore[no-untyped-call]
    shift, scale = (torch.tensor(list(values)).view(-1, 1, 1) for values in (mean, std))
    shown = []
    for picture in pictures:
        # "nearest" keeps the noise's distribution, and NaN, which says that nothing is erased there
        here = F.interpolate(canvas[None], size=picture.shape[-2:], mode="nearest")[0]
        shown.append(torch.where(here.isnan(), as_unit(picture), here * scale + shift))
    return shown
