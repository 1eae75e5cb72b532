"""What a mask file holds, and what its numbers and colours mean."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from understudy.data.sources.decoding import UNREADABLE, BadImageError

__all__ = ["IGNORED", "MaskTable", "Values", "mask_values"]

Values = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
IGNORED = 255  # of a pixel that has no class
_NUMBERS, _WIDE = ("P", "L", "1"), ("I", "I;16", "I;16B")  # modes of masks that hold numbers


class MaskTable:
    """What the numbers in mask files mean.

    Args:
        num_classes: C.
        classes: number of the class by the value in a file; values that are not there are ignored. None: the value is
            the class, and one that is no class is refused.
        ignored: the value of pixels without a class, where there is no table.
        colours: number of the class by the (red, green, blue) of masks in colours; others are refused.
    """

    def __init__(
        self,
        num_classes: int,
        classes: dict[int, int] | None = None,
        *,
        ignored: int = IGNORED,
        colours: Mapping[tuple[int, int, int], int] | None = None,
    ) -> None:
        self.num_classes = num_classes
        in_order = sorted((_packed(np.array(colour)), number) for colour, number in (colours or {}).items())
        self.colours = np.array([colour for colour, _ in in_order], dtype=np.int64)
        self.of_colours = np.array([number for _, number in in_order], dtype=np.uint8)
        self.is_closed = classes is None  # whether other values are refused
        table = bytearray([IGNORED] * 256)
        known = {value: value for value in range(num_classes)} if classes is None else classes
        for value, number in known.items():
            table[value] = number
        if classes is None and ignored != IGNORED:
            table[ignored] = IGNORED
        self.table, self.known = bytes(table), bytes({*known, ignored, IGNORED})

    def classes_of(self, values: Values, name: str) -> Tensor:
        """(H,W) class numbers of what a file holds: numbers (H,W), or colours (H,W,3).

        Raises:
            BadImageError: a value that is no class, a colour that stands for none.
        """
        if values.ndim == 3:
            return self._of_colours(values, name)
        found = values.tobytes()  # of which bytes.translate is three times as fast as indexing a table
        if self.is_closed and (unknown := found.translate(None, self.known)):
            wrong = sorted(set(unknown))
            raise BadImageError(
                f"{name}: the mask holds {', '.join(map(str, wrong[:5]))}, and there are {self.num_classes} classes "
                f"(0..{self.num_classes - 1}); name all classes, or say with data.class_map what the numbers mean"
            )
        return torch.frombuffer(bytearray(found.translate(self.table)), dtype=torch.uint8).reshape(values.shape)

    def _of_colours(self, values: Values, name: str) -> Tensor:
        if not len(self.colours):
            if (values == values[..., :1]).all():  # greys that were saved in colours
                return self.classes_of(values[..., 0], name)
            raise BadImageError(
                f"{name}: the mask is in colours; give a table of them (classes.json with a name and a color of each "
                "class, or class_dict.csv; see data.class_names), or convert them to class numbers"
            )
        packed = _packed(values.astype(np.int64))
        places = np.searchsorted(self.colours, packed).clip(max=len(self.colours) - 1)
        is_known = self.colours[places] == packed
        if not is_known.all():
            wrong = np.unique(values[~is_known], axis=0)
            shown = ", ".join(f"({', '.join(map(str, colour))})" for colour in wrong[:3].tolist())
            raise BadImageError(
                f"{name}: {len(wrong)} colours of the mask stand for no class, such as {shown}; add them to the table "
                "(named void where they are to be ignored), and save masks as PNG, since JPEG changes colours"
            )
        return torch.from_numpy(self.of_colours[places])


def _packed(colours: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Any:
    """(...) one number for each of (...,3) colours."""
    return (colours[..., 0] << 16) | (colours[..., 1] << 8) | colours[..., 2]


def mask_values(read: Callable[[], bytes], name: str) -> Values:
    """What the file of a mask holds: (H,W) numbers, of a palette those of its colours; or (H,W,3) colours.

    Args:
        read: gives the file's bytes.
        name: for messages.

    Raises:
        BadImageError: it cannot be read, or holds neither.
    """
    try:
        with Image.open(io.BytesIO(read())) as image:
            values = np.asarray(image, dtype=None if image.mode in _WIDE else np.uint8)
            if image.mode not in (*_NUMBERS, *_WIDE, "RGB", "RGBA") or (values < 0).any() or (values > 255).any():
                raise BadImageError(
                    f"{name}: a mask is a PNG with a class number up to 255 or a colour for each pixel (modes L, P, 1, "
                    f"RGB), this one has mode {image.mode}; convert it to class numbers"
                )
            return (values if values.ndim == 2 else values[..., :3]).astype(np.uint8)
    except BadImageError:
        raise
    except UNREADABLE as error:
        raise BadImageError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
