"""What the benchmarks share: work that takes turns in one process, ratios of turns, and what is written beside them.

Times on a shared machine say little, ratios of neighbours a good deal: every turn runs all contestants one after the
other, every second turn backwards, and a ratio is taken within each turn. Two clocks run: the one on the wall, and the
processor time of this process and its workers, which counts no waiting and is the steadier one where others use the
machine too. The second says little where work is done on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from understudy.utils.machine import describe_environment

__all__ = ["Seconds", "add_common_arguments", "device_of", "in_turns", "report", "summary", "timed"]

Turns = dict[str, list["Seconds"]]  # of every turn, by contestant


class Seconds(NamedTuple):
    """What a call took."""

    wall: float
    processor: float  # of this process and of the workers that live on


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """What every benchmark of steps can be told."""
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--json", type=Path)


def device_of(arguments: argparse.Namespace) -> torch.device:
    """The device that was asked for; sets the number of threads, too."""
    torch.set_num_threads(arguments.threads)
    name = arguments.device
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def timed(work: Callable[[], object], device: torch.device) -> Seconds:
    """What one call takes, the device's work included."""
    synchronize(device)
    began, began_processor = time.perf_counter(), processor_seconds()
    work()
    synchronize(device)
    return Seconds(time.perf_counter() - began, processor_seconds() - began_processor)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def processor_seconds() -> float:
    """So far, of this process and of its living children (on Linux; elsewhere of this process alone)."""
    seconds = time.process_time()
    for listing in Path("/proc/self/task").glob("*/children"):
        for child in listing.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system
    return seconds


def in_turns(
    contestants: Mapping[str, Callable[[], object]], turns: int, device: torch.device, *, warmup: int = 1
) -> Turns:
    """What every turn takes, by contestant; the first `warmup` turns do not count."""
    names = list(contestants)
    times: Turns = {name: [] for name in names}
    for turn in range(warmup + turns):
        for name in names if turn % 2 == 0 else reversed(names):
            times[name].append(timed(contestants[name], device))
    return {name: found[warmup:] for name, found in times.items()}


def summary(times: Mapping[str, Sequence[Seconds]], base: str) -> list[dict[str, Any]]:
    """Median and least of every contestant by either clock, and how many times the base's that is.

    Keys: `wall_s`, `least_wall_s`, `times_wall` (median of the turns' ratios), `times_least_wall` (ratio of the least),
    `range_wall` (of the turns' ratios); the same with `processor`; `turns` holds everything.
    """
    rows = []
    for name, found in times.items():
        row: dict[str, Any] = {"name": name, "turns": [list(seconds) for seconds in found]}
        for place, clock in enumerate(Seconds._fields):
            mine, theirs = ([seconds[place] for seconds in side] for side in (found, times[base]))
            ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
            row |= {
                f"{clock}_s": statistics.median(mine),
                f"least_{clock}_s": min(mine),
                f"times_{clock}": statistics.median(ratios),
                f"times_least_{clock}": min(mine) / min(theirs),
                f"range_{clock}": [min(ratios), max(ratios)],
            }
        rows.append(row)
    return rows


def report(table: str, record: Mapping[str, Any], file: Path | None) -> None:
    """Print a table and what it was measured on; write both to `file`, where there is one."""
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    environment = {**describe_environment(), "load_average": os.getloadavg(), "command": command}
    print(table)
    settings = {name: value for name, value in record.items() if isinstance(value, str | int | float)}
    print("\n" + ", ".join(f"{name} {value}" for name, value in settings.items()))
    print(f"{environment['hardware']}, load {environment['load_average'][0]:.1f}\n{environment['versions']}")
    if file:
        file.write_text(json.dumps({**record, **environment}, indent=1) + "\n", encoding="utf-8")
