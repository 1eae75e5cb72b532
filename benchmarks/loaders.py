"""Images a second of the training loader alone, beside a torchvision DataLoader of the same crops.

understudy reads image files anew at every epoch (`cache: false`) or keeps them scaled down as JPEG (`cache: resized`);
with `decode: gpu` it decodes and crops these as whole batches on the device, without workers: by nvJPEG on CUDA, by the
same code and libjpeg elsewhere, where a run would refuse it. Either way is timed with DeiT's RandAugment and erasing,
too, in workers and as whole batches. torchvision is an ImageFolder with RandomResizedCrop, flip
and ToTensor in a DataLoader. All others decode in as many workers; all take turns in one process, an epoch each.

    python benchmarks/loaders.py --data FOLDER [--size 224] [--workers 2] [--device cuda] [--turns 5] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

import torch
from measuring import in_turns, report, summary
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from understudy.data import DataConfig, Share, TrainLoader, open_data, train_loader
from understudy.data.augment.batched_parts import BatchedParts
from understudy.data.augment.config import ResizedCrop
from understudy.data.loaders.on_device import DeviceTrainLoader
from understudy.data.loaders.plan import EpochPlan
from understudy.data.resized import resized_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder for each class, or train/CLASS and val/CLASS")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    rows = summary(in_turns(contestants(arguments, device), arguments.turns, device), "torchvision")
    lines = ["| loader | times the rate, clock | range | processor |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        low, high = (1 / end for end in reversed(row["range_wall"]))
        faster = 1 / row["times_wall"]
        lines.append(f"| {row['name']} | {faster:.2f} | {low:.2f} to {high:.2f} | {1 / row['times_processor']:.2f} |")
    facts = {name: value for name, value in vars(arguments).items() if isinstance(value, str | int)}
    report("\n".join(lines), {"rows": rows, **facts}, arguments.json)


class Epochs:
    """An epoch of a loader at each call, another one each time; its workers live on.

    Attributes:
        steps: batches of an epoch.
    """

    def __init__(self, batches: Callable[[int], Iterable[Tensor]], steps: int) -> None:
        self._batches = batches
        self._epochs = count(1)
        self.steps = steps

    def __call__(self) -> None:
        for images in self._batches(next(self._epochs)):
            assert len(images)


def contestants(arguments: argparse.Namespace, device: torch.device) -> dict[str, Epochs]:
    """An epoch of each loader, by name."""
    settings = {"root": arguments.data, "batch_size": arguments.batch, "workers": arguments.workers, "cache": False}
    config = DataConfig.read(settings, what="data")
    source, size = open_data(config).train, arguments.size
    kept = resized_source(source, size)
    plan = EpochPlan.of(len(kept), config, seed=0, share=Share())
    strong = ResizedCrop(rand_augment="rand-m9-mstd0.5-inc1", erasing=0.25, interpolation="bicubic")
    parts = BatchedParts.on(device, strong, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    strongly = config.model_copy(update={"augment": strong})

    def on_device(augment: ResizedCrop, then: BatchedParts | None) -> Epochs:
        sizes = {"image_size": size, "teacher_size": None}
        return ours(DeviceTrainLoader(kept, augment, plan, parts=then, must_stop=False, device=device, **sizes))

    return {
        "torchvision": theirs(arguments, device),
        "understudy, cache: false": ours(train_loader(source, config, seed=0, image_size=size, device=device)),
        "understudy, cache: resized": ours(train_loader(kept, config, seed=0, image_size=size, device=device)),
        "understudy, decode: gpu": on_device(ResizedCrop(), None),
        "RandAugment, understudy, cache: resized": ours(
            train_loader(kept, strongly, seed=0, image_size=size, device=device)
        ),
        "RandAugment, understudy, decode: gpu": on_device(strong, parts),
    }


def ours(loader: TrainLoader) -> Epochs:
    """Of our loader."""
    return Epochs(lambda epoch: (batch.images for batch in loader.epoch(epoch)), loader.steps_per_epoch)


def theirs(arguments: argparse.Namespace, device: torch.device) -> Epochs:
    """Of torchvision's."""
    root, workers = Path(arguments.data), arguments.workers
    steps = [transforms.RandomResizedCrop(arguments.size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    folder = ImageFolder(str(root / "train" if (root / "train").is_dir() else root), transforms.Compose(steps))
    loader = DataLoader(
        folder,
        arguments.batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    return Epochs(lambda epoch: (images.to(device, non_blocking=True) for images, _ in loader), len(loader))


if __name__ == "__main__":
    main()
