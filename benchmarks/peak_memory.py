"""Peak memory of training, ours beside the bare loop, each in a process of its own.

A process's peak is its largest resident set as the kernel counts it (getrusage, ru_maxrss), on CUDA also the largest
allocation there (torch.cuda.max_memory_allocated). The parent imports nothing large: Linux hands a parent's peak on to
its children. Each training comes as two processes: `imports` does everything up to the networks, the other trains,
too; both import the same, so that libraries cancel. The bare loop is peers.py's step on one random batch, without data
or workers. Ours holds the decoded images, whose size it announces; that and nothing else is taken off.

    python benchmarks/peak_memory.py [--pair resnet56-resnet20] [--steps 20] [--repeats 3] [--data FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS = {"kd": ["kd"], "kd+dot": ["kd+dot"], "five rows": ["alone", "kd", "kd+dot", "dist", "projector"]}
BARE = {"kd": "bare kd", "kd+dot": "bare kd+dot", "five rows": "bare five"}  # what each is measured against


def main() -> None:
    arguments = parsed()
    if arguments.variant:
        print(json.dumps(measured(arguments)))
        return
    imports = in_processes("imports", arguments)
    rows = []
    for what, bare in BARE.items():
        found = {name: in_processes(name, arguments) for name in (bare, f"ours {what}")}
        rows.append(row(what, {"imports": imports, **found}))
    lines = [
        "| training | bare loop, MiB | ours, MiB | of that decoded images | ours without them, times the bare loop |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {found['name']} | {found['bare_mib']:,.0f} | {found['ours_mib']:,.0f} | {found['cache_mib']:,.0f} | "
        f"{found['times']:.2f} |"
        for found in rows
    ]
    lines.append(f"\nimports and networks alone: {rows[0]['imports_mib']:,.0f} MiB")
    from measuring import report  # not before: this process has to stay small until its children have run

    settings = {name: value for name, value in vars(arguments).items() if isinstance(value, str | int)}
    report("\n".join(lines), {"rows": rows, **settings}, arguments.json)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--pair", default="resnet56-resnet20", help="teacher-student")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", default="../shared/data/cifar10")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def in_processes(variant: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Medians of what so many processes report."""
    command = [sys.executable, __file__, "--variant", variant]
    for name in ("pair", "device", "batch", "threads", "steps", "data"):
        command += [f"--{name}", str(getattr(arguments, name))]
    found = []
    for _ in range(arguments.repeats):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def row(what: str, found: dict[str, dict[str, float]]) -> dict[str, Any]:
    imports, bare, ours = found.values()
    key = "device_mib" if ours["device_mib"] else "peak_mib"
    return {
        "name": what,
        "imports_mib": imports[key],
        "bare_mib": bare[key],
        "ours_mib": ours[key],
        "cache_mib": ours["cache_mib"],
        "times": (ours[key] - ours["cache_mib"]) / bare[key],
        "processes": found,
    }


def measured(arguments: argparse.Namespace) -> dict[str, float]:
    """What this process's own training takes at most, in MiB."""
    import torch

    torch.set_num_threads(arguments.threads)
    who, _, what = arguments.variant.partition(" ")
    cache = 0.0
    if who == "ours":
        cache = train_ours(what, arguments)
    else:
        train_bare(what, arguments)
    is_cuda = arguments.device == "cuda"
    return {
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "device_mib": torch.cuda.max_memory_allocated() / 2**20 if is_cuda else 0.0,
        "cache_mib": cache,
    }


def train_ours(what: str, arguments: argparse.Namespace) -> float:
    """Train the rows; returns MiB of decoded images."""
    from ours import opened, recipe, training_block

    teacher, student = arguments.pair.split("-")
    settings = {"batch_size": arguments.batch, "device": arguments.device}
    parts = opened(recipe(arguments.data, (teacher, student), ROWS[what], **settings))
    training_block(parts, ROWS[what], arguments.steps)()
    sources = [parts.data.train, parts.data.val, parts.data.test]
    if arguments.device == "cuda":  # only what is trained on goes there
        sources = sources[:1]
    return sum(source.images.nbytes for source in sources if source is not None) / 2**20  # type: ignore[attr-defined]


def train_bare(what: str, arguments: argparse.Namespace) -> None:
    """Train as many students by plain steps, one batch for all; "five" trains five, one of them by DOT."""
    import ours  # noqa: F401 - the same libraries as ours
    import torch
    from peers import TASK_WEIGHT, plain_distillation, plain_moves

    import understudy as us

    device = torch.device(arguments.device)
    teacher_name, student_name = arguments.pair.split("-")

    def network(name: str) -> torch.nn.Module:
        module = us.create_model(f"cifar:{name}", num_classes=10, weights="none").module
        return module.to(device).to(memory_format=torch.channels_last)

    teacher = network(teacher_name).eval()
    students = [network(student_name) for _ in range(5 if what == "five" else 1)]
    moves: list[Callable[..., None]] = [plain_moves(student, is_dot=False) for student in students]
    if what in ("kd+dot", "five"):
        moves[-1] = plain_moves(students[-1], is_dot=True)
    if arguments.variant == "imports":
        return
    images = torch.rand(arguments.batch, 3, 32, 32, device=device)
    labels = torch.arange(arguments.batch, device=device) % 10
    for _ in range(arguments.steps):
        with torch.no_grad():
            teacher_logits = teacher(images)
        for student, move in zip(students, moves, strict=True):
            logits = student(images)
            task = TASK_WEIGHT * torch.nn.functional.cross_entropy(logits, labels)
            move(task, plain_distillation(logits, teacher_logits))


if __name__ == "__main__":
    main()
