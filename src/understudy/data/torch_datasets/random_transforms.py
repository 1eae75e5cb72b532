"""Data sets made in Python whose samples differ from call to call: which they are, and what can be taken away."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision.datasets import VisionDataset
from torchvision.datasets.folder import default_loader
from torchvision.datasets.vision import StandardTransform
from torchvision.transforms import v2

from understudy.core.image_size import covering, size_of
from understudy.data.sources.base import Source
from understudy.data.sources.decoding import BadImageError
from understudy.data.sources.grey_range import spread
from understudy.utils.hashing import hashed
from understudy.utils.seeding import globally_seeded

__all__ = ["differs", "drawing_transforms", "is_fixed", "without_drawing"]

NUM_COMPARED, NUM_READS = 8, 3  # samples that are read so often, each time with other random numbers

_OF_ITS_OWN_SIZE = {"RandomCrop": 1.0, "RandomResizedCrop": 8 / 7}  # resized shorter side / crop: 256 / 224
_DRAWING = (
    {"ColorJitter", "AutoAugment", "RandAugment", "TrivialAugmentWide", "AugMix", "ElasticTransform", "GaussianBlur"}
    | {"GaussianNoise", "ScaleJitter"}
)  # fmt: skip


def is_fixed(dataset: Any) -> bool:
    """Whether sample i is surely the same on every call.

    Of TensorDataset and of torchvision's own classes without a transform, and of Subset and ConcatDataset of these.
    An attribute `transform = None` of any other class says nothing of what its samples go through.
    """
    if type(dataset) is Subset:
        return is_fixed(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return all(map(is_fixed, dataset.datasets))
    if type(dataset) is TensorDataset:
        return True
    if not isinstance(dataset, VisionDataset) or not type(dataset).__module__.startswith("torchvision."):
        return False
    reads_as_it_is = getattr(dataset, "loader", default_loader) is default_loader
    transforms = ("transform", "target_transform", "transforms")
    return reads_as_it_is and all(getattr(dataset, name, None) is None for name in transforms)


def differs(source: Source) -> bool:
    """Whether one of eight samples, read three times under other random numbers, is not the same each time."""
    for i in spread(len(source), NUM_COMPARED):
        first = None
        for read in range(NUM_READS):
            try:
                with globally_seeded(hashed("compared", i, read)):
                    image = source.image(i)
            except BadImageError:
                break
            if first is not None and not torch.equal(first, image):
                return True
            first = image if first is None else first
    return False


def drawing_transforms(dataset: Any) -> list[str]:
    """Names of torchvision's transforms that draw, in a data set's own transform or in those that it is made of."""
    if isinstance(dataset, ConcatDataset):
        return list(dict.fromkeys(name for part in dataset.datasets for name in drawing_transforms(part)))
    found = [type(step).__name__ for step in _steps(_transform_of(dataset)) if _draws(step)]
    inner = getattr(dataset, "dataset", None)
    return list(dict.fromkeys([*found, *(drawing_transforms(inner) if inner is not None else [])]))


def without_drawing(dataset: Any) -> Any | None:
    """The data set with what draws taken out of its transform; None where it is none that allows this.

    It is one of torchvision's, or a Subset or ConcatDataset of these, and the steps that draw are torchvision's own. A
    random crop becomes the central one of its size.
    """
    if type(dataset) is Subset:
        inner = without_drawing(dataset.dataset)
        return None if inner is None else Subset(inner, dataset.indices)
    if type(dataset) is ConcatDataset:
        parts = [part for whole in dataset.datasets if (part := without_drawing(whole)) is not None]
        return ConcatDataset(parts) if len(parts) == len(dataset.datasets) else None
    if not isinstance(dataset, VisionDataset) or not hasattr(dataset, "transform"):
        return None
    target = getattr(dataset, "target_transform", None)
    if dataset.transform is None and getattr(dataset, "transforms", None) is not None:
        return None  # one of image and label together
    plain = copy.copy(dataset)
    plain.transform = _plain(dataset.transform)
    plain.transforms = None if plain.transform is target is None else StandardTransform(plain.transform, target)
    return plain


def _transform_of(dataset: Any) -> Any:
    return getattr(dataset, "transform", None) or getattr(dataset, "transforms", None)


def _steps(transform: Any) -> Iterator[Any]:
    inner = getattr(transform, "transforms", None)
    if isinstance(transform, torch.nn.Sequential):
        inner = list(transform)
    if isinstance(transform, StandardTransform):
        inner = [transform.transform]
    yield transform
    if isinstance(inner, list | tuple | torch.nn.ModuleList) and not _draws(transform):
        for step in inner:
            yield from _steps(step)


def _draws(step: Any) -> bool:
    kind = type(step)
    return kind.__module__.startswith("torchvision.") and (
        kind.__name__.startswith("Random") or kind.__name__ in _DRAWING
    )


def _plain(transform: Any) -> Any:
    """The transform without the steps that draw; None where nothing is left."""
    if transform is None or _draws(transform):
        return _in_place_of(transform)
    inner = getattr(transform, "transforms", None)
    if isinstance(transform, torch.nn.Sequential):
        inner = list(transform)
    if not isinstance(inner, list | tuple | torch.nn.ModuleList):
        return transform
    kept = [plain for step in inner if (plain := _plain(step)) is not None]
    return _in_turn(kept)


def _in_place_of(step: Any) -> Any:
    share = _OF_ITS_OWN_SIZE.get(type(step).__name__)
    if share is None:
        return None
    size = [int(side) for side in (step.size if isinstance(step.size, list | tuple) else [step.size])]
    size = size * 2 if len(size) == 1 else size
    cut = v2.CenterCrop(size)
    if share == 1.0:
        return cut
    scaled = v2.Resize(round(size[0] * share), antialias=True) if size[0] == size[1] else _Covering(size, share)
    return v2.Compose([scaled, cut])


class _Covering(torch.nn.Module):
    """Scales images until they cover so many times (height, width); at module level, so that workers can have it."""

    def __init__(self, size: list[int], share: float) -> None:
        super().__init__()
        self._around = size_of([round(side * share) for side in size])

    def forward(self, image: Any) -> Any:
        sides = covering(v2.functional.get_size(image), self._around)
        return v2.functional.resize(image, list(sides), antialias=True)


def _in_turn(steps: list[Callable[..., Any]]) -> Any:
    """As Compose does, which refuses an empty list."""
    return v2.Compose(steps) if steps else None
