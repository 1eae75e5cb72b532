"""How cost grows with the work: images, classes, feature size, rows in a pass. A table of exponents, and a figure.

Every sweep times one thing at growing sizes, in turns, by processor time on the CPU and by the wall clock on a GPU.
The exponent is that of the largest two sizes: 1 is linear, below it a fixed part still shows; more than 1.1 is named.

images: decoding once on opening a data set, an epoch of drawing and augmenting, CRD's memory and its loss.
classes: forward and backward pass of a method's loss alone, M = batch rows of logits (and D = 64 embeddings for CRD);
    putting as many rows of a bank together again, all logits or the largest 32, and the bytes of one row.
features: the same over the channels of embeddings (projector) and of 8x8 maps (fitnet), connectors included.
rows: a step of `Trainer.fit` with so many rows of KD under one teacher.

    python benchmarks/growth.py [--sweeps images classes features rows] [--turns 5] [--figure FILE.svg] [--json FILE]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import LogLocator
from measuring import add_common_arguments, device_of, in_turns, report, timed
from ours import opened, recipe, training_block
from torch import Tensor

from understudy import DataConfig, Pairing
from understudy.core.taps import TapShape
from understudy.data import CropFlip, TensorSource, open_data, train_loader
from understudy.methods import METHODS
from understudy.methods.base import Context, Method, TapShapes
from understudy.report.figures.style import STYLE
from understudy.teachers.bank.packing import BankLayout, packed, unpacked

IMAGES = (1_000, 3_000, 10_000, 20_000, 50_000)
CLASSES = (10, 100, 1_000, 10_000)
FEATURES = (64, 256, 1_024, 4_096)
ROWS = (1, 2, 4, 8)
OF_CLASSES = ("kd", "dkd", "dist", "dist_rank", "crd")
STAGES = ("stages.0", "stages.1", "stages.2")
OF_FEATURES = {"projector": "embedding", "fitnet": "map"}
MOST_RANKS = 1_000  # classes: dist_rank compares all pairs of them, 25 GiB at 10,000 for 64 rows
SUPERLINEAR = 1.1
REPEATS = 100  # look-ups of one measurement

Series = dict[str, list[tuple[int, float]]]  # (size, cost) by what was measured


def main() -> None:
    arguments = parsed()
    device = device_of(arguments)
    sweeps = {"images": of_images, "classes": of_classes, "features": of_features, "rows": of_rows}
    found = {name: sweeps[name](arguments, device) for name in arguments.sweeps}
    if arguments.figure:
        draw(found, arguments.figure)
    settings = {name: value for name, value in vars(arguments).items() if isinstance(value, str | int)}
    report(table(found), {"sweeps": found, **settings, "device": str(device)}, arguments.json)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--sweeps", nargs="+", default=["images", "classes", "features", "rows"])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--data", default="../shared/data/cifar10")
    parser.add_argument("--figure", type=Path)
    return parser.parse_args()


def of_images(arguments: argparse.Namespace, device: torch.device) -> Series:
    """Opening (once each), an epoch of batches, and CRD, which keeps something of every image."""
    kinds = ("open, s", "an epoch of batches, s", "CRD's memory, MiB", "CRD's loss, ms")
    series: Series = {kind: [] for kind in kinds}
    open_data(DataConfig(root=arguments.data, train_rows="0:100", val="test"))  # imports its reader
    for size in IMAGES:
        config = DataConfig(root=arguments.data, train_rows=f"0:{size}", val="test", batch_size=256)
        series["open, s"].append((size, timed(lambda config=config: open_data(config), device).processor))
        source = TensorSource(torch.randint(256, (size, 3, 32, 32), dtype=torch.uint8), torch.arange(size) % 10)
        config = config.model_copy(update={"augment": CropFlip()})
        loader = train_loader(source, config, seed=0, image_size=32, device=device)
        epoch = least({"": lambda loader=loader: [None for _ in loader.epoch(1)]}, arguments.turns, device)
        series["an epoch of batches, s"].append((size, epoch[""]))
        crd = loss_of("crd", channels=64, num_classes=10, num_train=size)
        memory = sum(buffer.nbytes for buffer in crd.buffers()) / 2**20
        series["CRD's memory, MiB"].append((size, memory))
        loss = descending("crd", arguments.batch, device, channels=64, num_classes=10, num_train=size)
        series["CRD's loss, ms"].append((size, 1000 * least({"": loss}, arguments.turns, device)[""]))
    return series


def of_classes(arguments: argparse.Namespace, device: torch.device) -> Series:
    """Milliseconds of a loss and its gradient, and of a bank's rows."""
    series: Series = {f"{name}, ms": [] for name in OF_CLASSES}
    for what, topk in {"bank": None, "bank, top 32": 32}.items():
        stored = {size: rows_of_bank(size, topk, arguments.batch) for size in CLASSES if size > (topk or 0)}
        found = {size: least({"": work}, arguments.turns, device)[""] for size, (work, _) in stored.items()}
        series[f"{what}: {REPEATS} look-ups, ms"] = [(size, 1000 * seconds) for size, seconds in found.items()]
        series[f"{what}: bytes of a row"] = [(size, row_bytes) for size, (_, row_bytes) in stored.items()]
    for size in CLASSES:
        names = [name for name in OF_CLASSES if name != "dist_rank" or size <= MOST_RANKS]
        work = {name: descending(name, arguments.batch, device, channels=64, num_classes=size) for name in names}
        for name, seconds in least(work, arguments.turns, device).items():
            series[f"{name}, ms"].append((size, 1000 * seconds))
    return series


def rows_of_bank(num_classes: int, topk: int | None, num_rows: int) -> tuple[Callable[[], None], int]:
    """What puts float16 rows together again, often enough to be timed, and the bytes of one."""
    layout = BankLayout(
        num_classes=num_classes, topk=topk, num_samples=num_rows, batch_size=num_rows, steps_per_shard=1
    )
    kept = packed(torch.randn(num_rows, num_classes), {}, layout)

    def work() -> None:
        for _ in range(REPEATS):
            unpacked(kept, layout, [])

    return work, layout.row_bytes


def of_features(arguments: argparse.Namespace, device: torch.device) -> Series:
    """Milliseconds of a loss and its gradient, connectors included."""
    series: Series = {f"{name}, ms": [] for name in OF_FEATURES}
    for size in FEATURES:
        names = [name for name in OF_FEATURES if name != "fitnet" or size <= 1_024]
        work = {name: descending(name, arguments.batch, device, channels=size, num_classes=10) for name in names}
        for name, seconds in least(work, arguments.turns, device).items():
            series[f"{name}, ms"].append((size, 1000 * seconds))
    return series


def of_rows(arguments: argparse.Namespace, device: torch.device) -> Series:
    """Milliseconds of a step of all rows, and of one of them in that company."""
    names = [f"kd{'+' * number}" for number in range(max(ROWS))]
    settings = {"batch_size": arguments.batch, "precision": arguments.precision, "device": device.type}
    parts = opened(recipe(arguments.data, ("resnet56", "resnet20"), ["kd"], **settings))
    work = {str(size): training_block(parts, ["kd"] * size, 4, names=names[:size]) for size in ROWS}
    found = least(work, arguments.turns, device)
    return {
        "a step, ms": [(size, 250 * found[str(size)]) for size in ROWS],
        "a step, ms per row": [(size, 250 * found[str(size)] / size) for size in ROWS],
    }


def least(work: dict[str, Callable[[], object]], turns: int, device: torch.device) -> dict[str, float]:
    """Least seconds of the turns: the processor's on the CPU, the clock's on a GPU."""
    place = 0 if device.type == "cuda" else 1
    times = in_turns(work, turns, device)
    return {name: min(seconds[place] for seconds in found) for name, found in times.items()}


def loss_of(name: str, *, channels: int, num_classes: int, num_train: int = 50_000) -> Method:
    """A method between two models of these sizes."""
    shapes = {"embedding": TapShape(channels), **{stage: TapShape(channels, 8, 8) for stage in STAGES}}
    sides = TapShapes(shapes, num_classes=num_classes)
    settings: dict[str, Any] = {"negatives": "other_samples"} if name == "crd" else {}
    labels = torch.arange(num_train) % num_classes
    built = Context(sides, sides, num_classes=num_classes, num_train=num_train, train_labels=labels)
    return METHODS[name](METHODS[name].Config(**settings), built)


def descending(
    name: str, num_rows: int, device: torch.device, *, channels: int, num_classes: int, num_train: int = 50_000
) -> Callable[[], None]:
    """Forward and backward pass of a method on fixed predictions."""
    torch.manual_seed(0)
    method = loss_of(name, channels=channels, num_classes=num_classes, num_train=num_train).to(device)
    logits, seen = (torch.randn(num_rows, num_classes, device=device) for _ in range(2))
    sides = [features(name, num_rows, channels, device) for _ in range(2)]
    labels, indices = torch.arange(num_rows, device=device) % num_classes, torch.arange(num_rows, device=device)
    leaves = [logits.requires_grad_(), *(feature.requires_grad_() for feature in sides[0].values())]
    pairing = Pairing(logits, seen, labels, sides[0], sides[1], indices)

    def work() -> None:
        loss = torch.stack(list(method(pairing).values())).sum()
        torch.autograd.grad(loss, [*leaves, *method.parameters()], allow_unused=True)

    return work


def features(name: str, num_rows: int, channels: int, device: torch.device) -> dict[str, Tensor]:
    if OF_FEATURES.get(name) == "map":
        return {stage: torch.randn(num_rows, channels, 8, 8, device=device) for stage in STAGES}
    return {"embedding": torch.randn(num_rows, channels, device=device)}


def exponent(points: Sequence[tuple[int, float]]) -> float:
    """Slope between the largest two sizes, both axes logarithmic."""
    (size, cost), (larger, dearer) = points[-2:]
    return math.log(dearer / cost) / math.log(larger / size)


def table(found: dict[str, Series]) -> str:
    lines = ["| grows with | what | at sizes | costs | exponent |", "| --- | --- | --- | --- | ---: |"]
    for sweep, series in found.items():
        for what, points in series.items():
            sizes, costs = (" / ".join(f"{value:,.3g}" for value in values) for values in zip(*points, strict=True))
            slope = exponent(points)
            mark = " (!)" if slope > SUPERLINEAR else ""
            lines.append(f"| {sweep} | {what} | {sizes} | {costs} | {slope:.2f}{mark} |")
    return "\n".join(lines)


def draw(found: dict[str, Series], file: Path) -> None:
    """A log-log panel for each sweep."""
    with context(STYLE):
        figure = Figure(figsize=(12, 3.3 * -(-len(found) // 2)), layout="constrained")
        panels = figure.subplots(-(-len(found) // 2), 2, squeeze=False).flat
        for axes, (sweep, series) in zip(panels, found.items(), strict=False):  # the last panel may stay empty
            for what, points in series.items():
                axes.loglog(*zip(*points, strict=True), marker="o", markersize=4, label=what)
            sizes = sorted({size for points in series.values() for size, _ in points})
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            costs = [cost for points in series.values() for _, cost in points]
            if max(costs) < 30 * min(costs):  # else a power of ten is enough
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(lambda cost, _: f"{cost:,g}")
            axes.set_title(f"cost by {sweep}")
            axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)


if __name__ == "__main__":
    main()
