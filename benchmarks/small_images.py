"""How fast small images are decoded once and then augmented: images a second, at 32x32 and 64x64.

decode: JPEG files in memory to one uint8 tensor, hashed on the way, as `open_data` does it, in a thread per core.
augment: a whole epoch of crop, flip, scaling to [0,1] and normalisation as the training loader and the model's first
operation do them, on one core. Medians of several passes, after one that does not count, by the clock and by the
processor time of this process; the second is what a core does, however many others use the machine.

    python benchmarks/small_images.py [--images 10000] [--passes 5] [--data FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from understudy.data import CropFlip, DataConfig, TensorSource, open_data, train_loader
from understudy.data.cache import cached
from understudy.data.sources.base import EncodedSource
from understudy.utils.machine import describe_environment, num_cpus

SIZES = (32, 64)
BATCH_SIZE = 256


class Files(EncodedSource):
    """JPEG files in memory."""

    def __init__(self, files: list[bytes]) -> None:
        self.labels = torch.zeros(len(files), dtype=torch.int64)
        self._files = files

    def encoded(self, i: int) -> bytes:
        return self._files[i]

    def name(self, i: int) -> str:
        return f"image {i}"


def main() -> None:
    arguments = parsed()
    rows = [row for size in SIZES for row in measured(size, arguments.images, arguments.passes)]
    if arguments.data:
        rows.append(opened(arguments.data))
    environment = describe_environment()
    print(table(rows))
    print(f"\nn = {arguments.passes} passes over {arguments.images:,} images; {environment['hardware']}")
    print(environment["versions"])
    if arguments.json:
        record = {"rows": rows, "passes": arguments.passes, "images": arguments.images, **environment}
        arguments.json.write_text(json.dumps(record, indent=1))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--data", help="also time the opening of these images, once")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measured(size: int, num_images: int, passes: int) -> list[dict[str, object]]:
    """The rates of both, at one size."""
    torch.set_num_threads(1)
    files = Files(jpegs(size, num_images))
    source = cached(files, True).source
    assert isinstance(source, TensorSource)
    return [
        row("decode", size, num_cpus(), rates(lambda: cached(files, True), num_images, passes)),
        row("crop, flip, normalise", size, 1, rates(lambda: augmented(source, size), num_images, passes)),
    ]


def jpegs(size: int, count: int) -> list[bytes]:
    """Files with as much detail as photographs have: noise over a smooth ground, about 1 kB at 32x32."""
    random = np.random.default_rng(0)
    ground = random.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    files = []
    for coarse in ground:
        smooth = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = (smooth + random.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=75)
        files.append(file.getvalue())
    return files


def augmented(source: TensorSource, size: int) -> Tensor:
    """A whole epoch, of which the last batch is returned."""
    config = DataConfig(root="unread", batch_size=BATCH_SIZE, augment=CropFlip())
    mean, std = torch.tensor([0.49, 0.48, 0.45])[:, None, None], torch.tensor([0.25, 0.24, 0.26])[:, None, None]
    images = torch.empty(0)
    for batch in train_loader(source, config, seed=0, image_size=size).epoch(1):
        images = (batch.images - mean) / std
    return images


def rates(work: Callable[[], object], num_images: int, passes: int) -> list[tuple[float, float]]:
    """Images a second, and images a second of processor time, of each pass."""
    work()
    found = []
    for _ in range(passes):
        began, began_cpu = time.perf_counter(), time.process_time()
        work()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
        found.append((num_images / seconds, num_images / cpu_seconds))
    return found


def opened(root: str) -> dict[str, object]:
    """The whole of `open_data`: reading, decoding, statistics, duplicates."""
    began, began_cpu = time.perf_counter(), time.process_time()
    data = open_data(DataConfig(root=root))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    count = len(data.train) + len(data.val) + (0 if data.test is None else len(data.test))
    what = f"open {data.name}, {count:,} images, {seconds:.1f} s"
    return row(what, data.native_size, num_cpus(), [(count / seconds, count / cpu_seconds)])


def row(what: str, size: int | None, cores: int, found: list[tuple[float, float]]) -> dict[str, object]:
    by_clock, by_core = (statistics.median(rates) for rates in zip(*found, strict=True))
    return {
        "what": what,
        "size": size,
        "cores": cores,
        "images_per_second": by_clock,
        "images_per_core_second": by_core,
        "passes": found,
    }


def table(rows: list[dict[str, object]]) -> str:
    lines = ["| what | pixels | cores | images a second | of one core |", "| --- | ---: | ---: | ---: | ---: |"]
    for found in rows:
        by_clock, by_core = (float(str(found[f"images_per_{of}second"])) for of in ("", "core_"))
        lines.append(
            f"| {found['what']} | {found['size'] or '-'} | {found['cores']} | {by_clock:,.0f} | {by_core:,.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
