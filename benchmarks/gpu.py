"""What a GPU makes of a run, within a few minutes: steps captured as a CUDA graph and not, beside the field's loops.

Prints a line as soon as it is measured, and writes the JSON file anew after each, so that a run that is cut off leaves
all that it had. The lines come in the order of their worth: first one student taught live, then DOT, from a bank, five
rows at once, then draws and mixing in the step, students side by side, RandAugment in the step and its batches alone,
bfloat16, compiled networks, large batches, float16, other optimizers, loaders of photographs (--photos FOLDER).
Before them go the tests of tests/test_on_cuda.py. A group that does not fit the minutes any more is named and left out.
On a CPU nothing is captured, and the same lines are printed at whatever size is asked for:

    python benchmarks/gpu.py --minutes 12 --data ../shared/data/cifar10 --json gpu.json
    python benchmarks/gpu.py --minutes 1 --data digits --pair resnet8-resnet8 --batch 16 --steps 5 --turns 1
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from against_others import others
from augment_batches import contestants as of_batches
from bare import matmul_rate
from half_weights import one_by_one
from loaders import contestants as of_photographs
from measuring import add_common_arguments, device_of, in_turns, summary, timed
from ours import banked, opened, recipe, training_block
from side_by_side import blocks as side_by_side
from torch.utils.flop_counter import FlopCounterMode

from understudy.runs.components import Components
from understudy.utils.machine import describe_environment, peak_memory_gib

EPOCHS, NUM_TRAIN = 240, 50_000  # of the runs that lines speak of: CIFAR's
ROWS = ("alone", "kd", "dkd", "dist", "projector")
STRONG = "RandAugment, bicubic, and erasing"  # of augment_batches.py
COLUMNS = (
    "| what | ms a step | images a second | 240 epochs, min | runs an hour | times the first | matmul rate | GiB |"
)

# Precision, whether compiled, and images a step (0: as many as asked for).
MODES = (("bfloat16", False, 0), ("float32", True, 0), ("bfloat16", True, 1024), ("float16", False, 0))

Group = dict[str, Callable[[], object]]  # blocks of steps by name; the first is what the others are held to


def main() -> None:
    arguments = parsed()
    device = device_of(arguments)
    ends = time.monotonic() + 60 * arguments.minutes
    record = {"rows": [], "left_out": [], **facts(arguments, device)}
    print(json.dumps({key: value for key, value in record.items() if value != []}, indent=1, default=str), flush=True)
    if device.type == "cuda" and not arguments.skip_tests:
        record["tests"] = tests_on_cuda()
        print(f"tests: {record['tests']}", flush=True)
    print(COLUMNS + "\n| --- |" + " ---: |" * 7, flush=True)
    with TemporaryDirectory() as folder:
        for name, made in groups(arguments, device, Path(folder)):
            if arguments.only and name not in arguments.only:
                continue
            if time.monotonic() > ends:
                record["left_out"].append(name)
                print(f"left out, for time: {name}", flush=True)
                continue
            for row in measured(name, made, arguments, device, rate=1e9 * record["matmul_gflops"]):
                record["rows"].append(row)
                print(line(row), flush=True)
                keep(record, arguments.json)
    keep(record, arguments.json)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--minutes", type=float, default=12, help="after which no other group is begun")
    parser.add_argument("--pair", default="resnet32x4-resnet8x4", help="teacher-student, CIFAR networks")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50, help="of every contestant in a turn")
    parser.add_argument("--workers", type=int, default=8, help="of the others' DataLoaders")
    parser.add_argument("--data", default="../shared/data/cifar10")
    parser.add_argument("--photos", help="a folder for each class of large images, for the loaders alone")
    parser.add_argument("--only", nargs="+", help='groups, such as live "live, DOT" bank')
    parser.add_argument("--skip-tests", action="store_true")
    return parser.parse_args()


def facts(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Card, clocks, versions, commit and settings."""
    rate = matmul_rate(device, arguments.precision, timed) if device.type == "cuda" else 0.0
    settings = {name: value for name, value in vars(arguments).items() if isinstance(value, str | int | float)}
    return {**describe_environment(), **settings, "clocks": clocks(device), "matmul_gflops": round(rate / 1e9)}


def clocks(device: torch.device) -> str | None:
    """Of the card: now and at most, in MHz, as nvidia-smi says it."""
    if device.type != "cuda":
        return None
    query = "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem"
    asked = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None


def tests_on_cuda() -> str:
    """The last line of the tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "tests/test_on_cuda.py", "-q", "-n", "6"]
    root = Path(__file__).parents[1]
    try:
        run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=180)
    except subprocess.TimeoutExpired:
        return "not done within three minutes"
    return run.stdout.strip().splitlines()[-1] if run.stdout.strip() else run.stderr.strip()[-300:]


def groups(
    arguments: argparse.Namespace, device: torch.device, folder: Path
) -> Iterator[tuple[str, Callable[[], Group]]]:
    """The groups of lines in the order of their worth; each is made when its turn comes."""
    teacher, student = arguments.pair.split("-")

    def parts(rows: Sequence[str] = ("kd", "kd+dot"), *, is_banked: bool = False, **settings: Any) -> Components:
        common = {"batch_size": arguments.batch, "precision": arguments.precision, "device": device.type}
        made = recipe(arguments.data, (teacher, student), rows, **{**common, **settings})
        return opened(banked(made, folder / "bank") if is_banked else made)

    def both(rows: Sequence[str], name: str, **settings: Any) -> Group:
        """Captured, where there is a GPU, and as they come."""
        ways = {"captured": "auto", "as they come": False} if device.type == "cuda" else {"as they come": False}
        return {
            f"{name}, {way}": training_block(parts(rows, capture=capture, **settings), rows, arguments.steps)
            for way, capture in ways.items()
        }

    def live() -> Group:
        theirs = others(parts(), arguments, device, arguments.steps)
        return {**both(["kd"], "kd"), **{name: block for name, block in theirs.items() if "dot" not in name}}

    def live_dot() -> Group:
        theirs = others(parts(), arguments, device, arguments.steps)
        return {**both(["kd+dot"], "kd+dot"), "plain loop kd+dot": theirs["plain loop kd+dot"]}

    def casts() -> Group:
        """bfloat16's weights cast all at once, as they are, beside autocast's casts at each use."""
        group = both(["kd"], "kd, bfloat16", precision="bfloat16")
        alone = both(["kd"], "kd, bfloat16 cast at each use", precision="bfloat16")
        return {**group, **{name: one_by_one(block) for name, block in alone.items()}}

    yield "live", live
    yield "live, DOT", live_dot
    yield (
        "bank",
        lambda: {
            **both(["kd"], "bank kd", is_banked=True),
            **both(["kd+dot"], "bank kd+dot", is_banked=True),
        },
    )
    yield "five rows", lambda: {**both(["kd"], "one row"), **both(list(ROWS), "five rows")}

    def students() -> Group:
        """Five students of one architecture without a teacher's pass, one after the other and as one network."""
        ways = side_by_side(student, len(ROWS), device, arguments.batch, arguments.steps, precision=arguments.precision)
        return {f"{len(ROWS)} students, {way}": block for way, block in ways.items()}

    yield "random draws", lambda: both(["crd"], "crd, whose negatives are drawn in the step")

    def strongly() -> Group:
        """RandAugment and erasing as whole batches in the step, and image by image in workers."""
        augment = {"name": "crop_flip", "rand_augment": "rand-m9-mstd0.5-inc1", "erasing": 0.25}
        ways = {"on the device": {"augment_on": "device"}, "in workers": {"workers": arguments.workers}}
        return {
            name: block
            for where, way in ways.items()
            for name, block in both(["kd"], f"kd, RandAugment {where}", data={"augment": augment, **way}).items()
        }

    yield "mixing", lambda: both(["kd"], "kd, Mixup and CutMix in the step", data={"mix": {}})
    yield "side by side", students
    yield "RandAugment", strongly
    yield "batches of RandAugment", lambda: batches_alone(arguments, device)
    yield "casts", casts
    for precision, compile, batch in MODES:
        size = {"batch_size": batch if device.type == "cuda" else arguments.batch} if batch else {}
        said = ", ".join([precision, *(["compiled"] if compile else []), *([f"batch {batch}"] if batch else [])])
        settings = {"precision": precision, "compile": compile and device.type == "cuda", **size}
        yield (
            said,
            lambda said=said, settings=settings: {
                **both(["kd"], f"kd, {said}", **settings),
                **both(["kd+dot"], f"kd+dot, {said}", **settings),
            },
        )
    optimizers = ("nadam", "rmsprop_tf", "lion")
    yield (
        "optimizers",
        lambda: {
            name: block
            for optimizer in optimizers
            for name, block in both(["kd"], f"kd, {optimizer}", update={"optimizer": optimizer, "lr": 1e-3}).items()
        },
    )
    if arguments.photos:
        yield "loaders", lambda: loaders(arguments, device)


def batches_alone(arguments: argparse.Namespace, device: torch.device) -> Group:
    """A batch after RandAugment and erasing, small and large."""
    group: Group = {}
    for size in (32, 224):
        for name, block in of_batches(STRONG, device, arguments.batch, size).items():
            block.steps = 1  # type: ignore[attr-defined]
            group[f"{size} px, {name}"] = block
    return group


def loaders(arguments: argparse.Namespace, device: torch.device) -> Group:
    """An epoch of each loader, torchvision's first."""
    chosen = {"data": arguments.photos, "size": 224, "workers": arguments.workers, "batch": arguments.batch}
    return {
        f"photographs, {name}": epoch for name, epoch in of_photographs(argparse.Namespace(**chosen), device).items()
    }


def measured(
    group: str, make: Callable[[], Group], arguments: argparse.Namespace, device: torch.device, *, rate: float
) -> Iterator[dict[str, Any]]:
    """A group's lines; one that fails is a line that says so. `rate`: of large matrix products, FLOP a second."""
    try:
        made = make()
        first = next(iter(made))
        flops = {what_of(name): flops_of(block) for name, block in made.items() if name.endswith("as they come")}
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        warmup = 2 if device.type == "cuda" else 1
        found = summary(in_turns(made, arguments.turns, device, warmup=warmup), first)
    except Exception as error:  # the next group may do all the same
        yield {"group": group, "name": group, "failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        return
    for row in found:
        batch = 1024 if "batch 1024" in row["name"] and device.type == "cuda" else arguments.batch
        steps = getattr(made[row["name"]], "steps", arguments.steps)  # of an epoch of photographs
        seconds, what = row["wall_s"] / steps, what_of(row["name"])
        hours = seconds * EPOCHS * -(-NUM_TRAIN // batch) / 3600
        yield {
            **row,
            "group": group,
            "ms_a_step": 1000 * seconds,
            "images_per_second": batch / seconds,
            "minutes": 60 * hours,
            "runs_an_hour": 1 / hours,
            "of_matmul_rate": flops[what] / row["wall_s"] / rate if rate and what in flops else None,
            "gib": peak_memory_gib(device),
        }


def what_of(name: str) -> str:
    """What a line is of, without the way in which its steps are taken."""
    return name.rpartition(", ")[0] or name


def flops_of(block: Callable[[], object]) -> int:
    """Floating-point operations of a block whose steps are taken as they come; a replayed graph shows none."""
    with FlopCounterMode(display=False) as counter:
        block()
    return int(counter.get_total_flops())


def line(row: Mapping[str, Any]) -> str:
    """A line of the table."""
    if "failed" in row:
        return f"| {row['name']} | failed: {row['failed']} | | | | | | |"
    rate = "" if row["of_matmul_rate"] is None else f"{100 * row['of_matmul_rate']:.1f} %"
    return (
        f"| {row['name']} | {row['ms_a_step']:.2f} | {row['images_per_second']:,.0f} | {row['minutes']:.1f} | "
        f"{row['runs_an_hour']:.1f} | {row['times_wall']:.2f} | {rate} | {row['gib']:.2f} |"
    )


def keep(record: Mapping[str, Any], file: Path | None) -> None:
    """Write everything that is known by now."""
    if file is not None:
        file.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
