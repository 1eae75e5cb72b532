"""What RandAugment, colour jitter and erasing take: image by image as in a worker, and as whole batches.

Image by image is `with_parts` in this process (one worker, without moving anything between processes), then a copy to
the device. Whole batches are drawn anew each time, too: in groups of one operation, as on the CPU and for images that
a GPU decodes, or all rows by all operations, as a CUDA graph repeats it for images in memory, which are small. Every
call shows another view of the same images. With --images, an epoch of the training loader alone follows, of so many
images in memory: as workers make it, and as `augment_on: device` does. All take turns in one process.

    python benchmarks/augment_batches.py [--sizes 32 224] [--images 2048] [--device cuda] [--turns 7] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from measuring import add_common_arguments, device_of, in_turns, report, summary
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from understudy.data import DataConfig, TensorSource, train_loader
from understudy.data.augment.after_crop import with_parts
from understudy.data.augment.batched_parts import BatchedParts
from understudy.data.augment.config import AugmentParts
from understudy.data.augment.crops import globally_seeded
from understudy.data.sources.base import as_unit
from understudy.utils.hashing import hashed

WORKER = "image by image"
IN_WORKERS, BOTH = "augment_on: workers", "RandAugment, bicubic, and erasing"
SMALL = 64  # pixels a side of images that are kept in memory, at most
SETTINGS: dict[str, dict[str, Any]] = {
    "RandAugment": {"rand_augment": "rand-m9-mstd0.5-inc1"},
    BOTH: {
        "rand_augment": "rand-m9-mstd0.5-inc1",
        "interpolation": "bicubic",
        "erasing": 0.25,
    },
    "colour jitter": {"color_jitter": 0.4},
    "erasing": {"erasing": 0.25},
}
LOADED: dict[str, dict[str, Any]] = {
    "crop_flip, RandAugment, erasing": {"name": "crop_flip", **SETTINGS[BOTH]},
    "resized_crop, RandAugment, erasing": {"name": "resized_crop", **SETTINGS[BOTH]},
    "rotate_flip": {"name": "rotate_flip"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 224], help="pixels a side")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--images", type=int, default=0, help="of an epoch of the loader")
    parser.add_argument("--workers", type=int, default=2, help="of the loader")
    arguments = parser.parse_args()
    device, rows = device_of(arguments), []
    for size in arguments.sizes:
        for what in SETTINGS:
            times = in_turns(contestants(what, device, arguments.batch, size), arguments.turns, device)
            rows += [{**row, "what": what, "images": f"{size} px"} for row in summary(times, WORKER)]
    for what, augment in LOADED.items() if arguments.images else ():
        for size in (size for size in arguments.sizes if size <= SMALL):
            times = in_turns(loaders(augment, arguments, device, size), arguments.turns, device)
            images = f"{size} px, an epoch of the loader"
            rows += [{**row, "what": what, "images": images} for row in summary(times, IN_WORKERS)]
    lines = ["| images | what | how | times the first | range over turns | processor |"]
    lines.append("| --- | --- | --- | ---: | ---: | ---: |")
    for row in rows:
        low, high = row["range_wall"]
        ratios = f"{row['times_wall']:.2f} | {low:.2f} to {high:.2f} | {row['times_processor']:.2f}"
        lines.append(f"| {row['images']} | {row['what']} | {row['name']} | {ratios} |")
    facts = {name: value for name, value in vars(arguments).items() if isinstance(value, str | int)}
    report("\n".join(lines), {"rows": rows, **facts}, arguments.json)


def contestants(what: str, device: torch.device, batch: int, size: int) -> dict[str, Callable[[], Tensor]]:
    """A batch on the device after one of SETTINGS, by how it is made; another view at each call."""
    parts = AugmentParts(**SETTINGS[what])
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    images = pictures(batch, size)
    there, batched, indices = images.to(device), BatchedParts.on(device, parts, mean, std), torch.arange(batch)
    views = {name: count() for name in ("alone", "groups", "whole")}

    def image_by_image() -> Tensor:
        view, shown = next(views["alone"]), []
        for index, image in enumerate(images):
            with globally_seeded(hashed(0, view, 0, index)):
                [one] = with_parts([image], parts, interpolation=parts.interpolation, mean=mean, std=std)
            shown.append(one)
        return as_unit(torch.stack(shown).to(device))

    def in_groups() -> Tensor:
        numbers = batched.drawn(indices, seed=0, view=next(views["groups"]), copies=0, size=size)
        return as_unit(batched.of([there], numbers, in_groups=True)[0])

    def whole() -> Tensor:
        numbers = batched.drawn(indices, seed=0, view=next(views["whole"]), copies=0, size=size)
        return as_unit(batched.of([there], numbers.to(device), in_groups=False)[0])

    ways = {WORKER: image_by_image, "a batch, in groups": in_groups}
    return ways | ({"a batch, all rows by all": whole} if size <= SMALL else {})


def loaders(
    augment: dict[str, Any], arguments: argparse.Namespace, device: torch.device, size: int
) -> dict[str, Callable[[], None]]:
    """An epoch of the training loader, by who augments; another one at each call."""
    source = TensorSource(pictures(arguments.images, size), torch.zeros(arguments.images, dtype=torch.int64))

    def epoch_of(where: str) -> Callable[[], None]:
        settings = {
            "root": "memory",
            "batch_size": arguments.batch,
            "workers": arguments.workers,
            "augment_on": where,
            "augment": augment,
        }
        loader = train_loader(source, DataConfig.read(settings, what="data"), seed=0, image_size=size, device=device)
        epochs = count(1)

        def epoch() -> None:
            for batch in loader.epoch(next(epochs)):
                assert len(batch.images)

        return epoch

    return {IN_WORKERS: epoch_of("workers"), "augment_on: device": epoch_of("device")}


def pictures(batch: int, size: int) -> Tensor:
    """(B,3,S,S) uint8: smooth ones with some noise."""
    drawn = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 6, 6, generator=drawn)
    smooth = F.interpolate(coarse, size=(size, size), mode="bicubic")
    return (200 * smooth + 20 + 8 * torch.randn(batch, 3, size, size, generator=drawn)).clamp(0, 255).byte()


if __name__ == "__main__":
    main()
