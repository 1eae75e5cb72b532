"""The field's VGG networks for 32x32 images: vgg8, vgg11, vgg13, vgg16 and vgg19, all with batch norm.

Parameter names are those of the published checkpoints (block0.0, block0.1, ..., classifier).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from understudy.models.cifar.common import (
    CifarNetwork,
    initialise_convolutions,
    initialise_linear,
    register_cifar,
    scaled,
)

__all__ = ["CifarVgg"]

_WIDTHS = (64, 128, 256, 512, 512)
_POOLED = (True, True, True, False)  # whether a maximum over 2x2 places follows the block


class CifarVgg(CifarNetwork):
    """Five blocks of 3x3 convolutions with batch norm, and one linear layer.

    Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, table 1
    (vgg8 has one convolution in each block), as the distillation field uses them (Tian et al., "Contrastive
    Representation Distillation", ICLR 2020): the fourth pooling is left out and the last one is the mean of all places.

    Differs from: the field's later code, which pools after the fourth block too where images have 64 pixels, and
    which gives the first block's output as its own pre-activation; here that is what enters its ReLU.

    Args:
        num_convolutions: of each of the five blocks.
        num_classes: C; 0 leaves the classifier out.
        in_chans: channels of the images.
        width: factor on all widths.

    Shapes: (B,in_chans,H,W) images to (B,C) logits; H and W at least 8.
    """

    classifier_name = "classifier"

    def __init__(
        self, num_convolutions: Sequence[int], *, num_classes: int = 100, in_chans: int = 3, width: float = 1.0
    ) -> None:
        super().__init__(num_classes, in_chans)
        self._body: list[str] = []  # names of the modules in front of the head, in order
        before, reduction = in_chans, 1
        for number, (channels, count) in enumerate(zip(_WIDTHS, num_convolutions, strict=True)):
            channels = scaled(channels, width)
            block = _block(before, channels, count)
            self._append(f"block{number}", block)
            self._append(f"act{number}", nn.ReLU(inplace=True))
            self.feature_info.append(
                {
                    "num_chs": channels,
                    "reduction": reduction,
                    "module": f"act{number}",
                    "preact": f"block{number}",
                    "norm": f"block{number}.{len(block) - 1}",
                }
            )
            if number < len(_POOLED) and _POOLED[number]:
                self._append(f"pool{number}", nn.MaxPool2d(2))
                reduction *= 2
            before = channels
        self._add_head(before)
        initialise_convolutions(self)
        initialise_linear(self, std=0.01)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B,D,H,W) output of the last block, rectified."""
        maps = images
        for name in self._body:
            maps = self.get_submodule(name)(maps)
        return maps

    def _append(self, name: str, module: nn.Module) -> None:
        self._body.append(name)
        self.add_module(name, module)


def _block(in_channels: int, channels: int, num_convolutions: int) -> nn.Sequential:
    """Convolutions with batch norm and ReLU, but for the last ReLU, which the network has under a name of its own."""
    layers: list[nn.Module] = []
    for number in range(num_convolutions):
        # They have biases, although batch norm takes them out again, since those of the checkpoints do.
        convolution = nn.Conv2d(channels if number else in_channels, channels, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


register_cifar(
    CifarVgg,
    {
        "vgg8": {"num_convolutions": (1, 1, 1, 1, 1)},
        "vgg11": {"num_convolutions": (1, 1, 2, 2, 2)},
        "vgg13": {"num_convolutions": (2, 2, 2, 2, 2)},
        "vgg16": {"num_convolutions": (2, 2, 3, 3, 3)},
        "vgg19": {"num_convolutions": (2, 2, 4, 4, 4)},
    },
    num_stages=5,
    classifier_name="classifier",
    first_conv="block0.0",
)
