"""Fingerprints of what Python handed over, written beside a run: networks and data that no recipe can name."""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from understudy.data import DataSplits
from understudy.runs.bank.key import split_identity
from understudy.utils.hashing import fingerprint
from understudy.utils.seeding import seeded

__all__ = ["data_identity", "differing_parts", "network_identity"]

NUM_PROBED = 64  # images of a split that are looked at, beside all labels
NUM_NOISE_IMAGES = 4  # two would make every normalised value of a 1x1 map 1 or -1
NUM_PROJECTIONS = 4
TOLERANCE = 1e-4  # of an output's size: another CPU rounds otherwise, another activation is further off
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def network_identity(module: nn.Module, *, image_shape: Sequence[int]) -> dict[str, Any]:
    """What tells a network from another: its modules, its weights, and what it makes of noise in either mode.

    Args:
        module: anything; it is copied and left as it was.
        image_shape: (3,H,W) of the noise.
    """
    tensors = dict(chain(module.named_parameters(), module.named_buffers()))
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    classes = [f"{type(part).__module__}.{type(part).__qualname__}" for part in module.modules()]
    return {
        "modules": _digest(repr(module), *classes, "frozen", *frozen),
        "weights": fingerprint(tensors),
        "outputs": _outputs(module, image_shape, training=False),
        "outputs in training": _outputs(module, image_shape, training=True),
    }


def data_identity(data: DataSplits, given: Mapping[str, Any]) -> dict[str, Any]:
    """What tells data from others: class names, and of every split all labels, some images and its transforms.

    Args:
        data: the splits.
        given: the data sets that they were made of, by split.
    """
    splits = {"train": data.train, "val": data.val, "test": data.test}
    return {"classes": _digest(*map(str, data.classes))} | {
        split: None if source is None else {**_images(source), "transforms": _digest(*_transforms(given.get(split)))}
        for split, source in splits.items()
    }


def differing_parts(here: Any, there: Any, path: str = "") -> Iterator[str]:
    """The key path of everything in which two identities differ; numbers are compared up to rounding."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        for key in dict.fromkeys([*here, *there]):
            yield from differing_parts(here.get(key), there.get(key), f"{path}.{key}" if path else str(key))
    elif not _alike(here, there):
        yield path


def _alike(here: Any, there: Any) -> bool:
    if not (isinstance(here, list) and isinstance(there, list) and len(here) == len(there)):
        return bool(here == there)
    allowed = TOLERANCE * max(1e-12, *(abs(value) for value in [*here, *there] if math.isfinite(value)))
    return all(one == other or abs(one - other) <= allowed for one, other in zip(here, there, strict=True))


def _images(source: Any) -> dict[str, Any]:
    """As a bank knows them; pixels that are others at every look tell nothing."""
    once, again = (split_identity(source, num_probed=NUM_PROBED) for _ in range(2))
    return {key: value if again[key] == value else "others at every look" for key, value in once.items()}


def _transforms(dataset: Any) -> Iterator[str]:
    """Class and transforms of a data set, and of those that it is made of."""
    seen: set[int] = set()
    while dataset is not None and id(dataset) not in seen:
        seen.add(id(dataset))
        yield type(dataset).__qualname__
        for name in ("transform", "target_transform", "transforms"):
            yield repr(getattr(dataset, name, None))
        dataset = getattr(dataset, "dataset", None)


def _outputs(module: nn.Module, image_shape: Sequence[int], *, training: bool) -> list[float] | str:
    """A few projections of the outputs on noise, or the kind of error that they end in."""
    noise = torch.rand(NUM_NOISE_IMAGES, *image_shape, generator=torch.Generator().manual_seed(0))
    try:
        with seeded(0), torch.no_grad():
            outputs = list(_tensors(copy.deepcopy(module).cpu().train(training)(noise)))
    except Exception as error:  # whoever builds the run says what is wrong with the network
        return type(error).__name__
    return [number for output in outputs for number in _projected(output.double().flatten())]


def _projected(values: Tensor) -> list[float]:
    """Its root mean square, and sums of its values with signs drawn from a fixed seed, of about that size."""
    drawn = torch.Generator().manual_seed(1)
    signs = torch.randint(2, (NUM_PROJECTIONS, len(values)), generator=drawn).double() * 2 - 1
    size = max(1, len(values)) ** 0.5
    found = [values.norm().item() / size, *(signs @ values / size).tolist()]
    return [float(f"{number:.9g}") for number in found]


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _tensors(list(output.values()))
    elif isinstance(output, Iterable) and not isinstance(output, str):
        for item in output:
            yield from _tensors(item)


def _digest(*words: str) -> str:
    """Sixteen hexadecimal digits of texts, whatever addresses are in them."""
    return hashlib.sha256(_ADDRESS.sub("", "\0".join(words)).encode()).hexdigest()[:16]
