"""Network: a model with its own first operation on images in [0,1], and where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from understudy.core.image_size import ImageSize, checked_size, covering, has_shape_of, height_and_width, size_of
from understudy.utils.errors import UserError

__all__ = ["Network", "Prepare", "channels_of", "in_format", "network_of"]

FEWEST_STRIDED_CHANNELS = 16  # of a strided 1x1 convolution in channels_last; float32 values of an AVX-512 register


class Prepare(nn.Module):
    """What a network does first to images in [0,1]: resize them, then normalise each channel.

    Its buffers stay out of the state dict, which so keeps the plain network's keys.

    Args:
        mean: per channel, in [0,1] units; None together with `std`: nothing is normalised.
        std: per channel, in [0,1] units.
        size: that images are resized to (bilinear, antialiased), until they cover it, of which the centre stays; None
            leaves them as they come.
        crop_share: size as a share of what images are scaled to cover, for images of another size than `size`: below 1,
            the centre is cut out, as evaluation does with photographs.
        channels: D of the images; 3 but for data sets made in Python.

    Shapes: (B,D,H,W) to (B,D,*size), or to (B,D,H,W) without a size.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        size: ImageSize | None = None,
        crop_share: float = 1.0,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise UserError(f"mean and std go together, got mean={mean}, std={std}; give both or neither")
        self.size = size
        self.crop_share = crop_share
        self.channels = channels
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    @property
    def does_nothing(self) -> bool:
        """Whether images pass through as they come."""
        return self.size is None and self.mean is None

    def forward(self, images: Tensor) -> Tensor:
        """The images as the network wants them."""
        if self.size is not None and images.shape[-2:] != height_and_width(self.size):
            images = self._fitted(images, self.size)
        if self.mean is None or self.std is None:
            return images
        return (images - self.mean) / self.std

    def copied_to(self, device: torch.device) -> Prepare:
        """The same preparation on `device`; this one stays where it is, for networks that were not moved."""
        copied = Prepare(size=self.size, crop_share=self.crop_share, channels=self.channels)
        copied.mean = None if self.mean is None else self.mean.to(device)
        copied.std = None if self.std is None else self.std.to(device)
        return copied

    def _fitted(self, images: Tensor, size: ImageSize) -> Tensor:
        sides = height_and_width(size)
        if has_shape_of(size, images.shape) and self.crop_share == 1:
            return F.interpolate(images, size=sides, mode="bilinear", align_corners=False, antialias=True)
        around = size_of([round(side / self.crop_share) for side in sides])
        scaled = transforms.resize(images, list(covering(images.shape, around)), antialias=True)
        centre: Tensor = transforms.center_crop(scaled, list(sides))
        return centre

    def extra_repr(self) -> str:
        """Its settings, as `print` shows them."""
        return f"mean={_as_list(self.mean)}, std={_as_list(self.std)}, size={self.size}"


@dataclass(frozen=True)
class Network:
    """A model that is ready to be tapped and trained; `dataclasses.replace` swaps its weights' owner."""

    name: str  # "timm:resnet34"; without a colon where the module was handed over in Python
    module: nn.Module  # the plain network, under its own state_dict keys
    prepare: Prepare
    input_size: ImageSize | None  # that the model prefers; None: any
    num_classes: int
    starts_from: str  # in words: "pretrained weights", "random weights ...", or the file's name
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # further arguments that rebuild the same module
    classes: tuple[str, ...] | None = None  # their names in order; None where they are not known

    @property
    def prepared(self) -> nn.Sequential:
        """The model that takes images in [0,1], on the device of `module`, whose weights it shares."""
        like = next(chain(self.module.parameters(), self.module.buffers()), torch.empty(0))
        return nn.Sequential(self.prepare.copied_to(like.device), self.module)

    @property
    def mean(self) -> list[float] | None:
        """Per channel, in [0,1] units; None where nothing is normalised."""
        return _as_list(self.prepare.mean)

    @property
    def std(self) -> list[float] | None:
        """Per channel, in [0,1] units; None where nothing is normalised."""
        return _as_list(self.prepare.std)


def in_format(network: Network, channels_last: bool) -> Network:
    """The same network, its convolutions' weights in that memory format, which images follow.

    Networks with strided 1x1 convolutions of fewer than 16 channels stay contiguous: oneDNN's gradient of their weights
    writes beside its memory in channels_last where a vector register holds more values than there are channels (torch
    2.14.1 with oneDNN 3.12: below 8 on AVX2 in batches of 16 and 32, below 16 on AVX-512 in 64 images of 64 pixels).
    """
    channels_last = channels_last and not any(map(_is_narrow_and_strided, network.module.modules()))
    network.module.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return network


def network_of(
    module: nn.Module,
    *,
    num_classes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: ImageSize | None = None,
    channels: int = 3,
) -> Network:
    """A Network around any module that was built in Python; it keeps the weights that it has.

    Args:
        module: (B,D,H,W) images, normalised by `mean` and `std`, to (B,C) logits.
        num_classes: C.
        mean: per channel, in [0,1] units; None: the module normalises by itself or not at all.
        std: per channel, in [0,1] units.
        image_size: that images are resized to; None: any size will do.
        channels: D.
    """
    image_size = None if image_size is None else checked_size(image_size)
    return Network(
        name=type(module).__name__,
        module=module,
        prepare=Prepare(mean, std, size=image_size, channels=channels),
        input_size=image_size,
        num_classes=num_classes,
        starts_from="the weights it came with",
    )


def _is_narrow_and_strided(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels // module.groups < FEWEST_STRIDED_CHANNELS
    )


def channels_of(module: nn.Module) -> int:
    """Channels of the images that a network takes, by the `Prepare` that it begins with; 3 without one."""
    return next((part.channels for part in module.modules() if isinstance(part, Prepare)), 3)


def _per_channel(values: Sequence[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor([float(value) for value in values]).view(1, -1, 1, 1)


def _as_list(values: Tensor | None) -> list[float] | None:
    # The fewest digits that give the same float32 again: 0.485, not 0.48500001430511475.
    return None if values is None else [float(str(np.float32(value))) for value in values.flatten().tolist()]
