"""Images a second of a whole training step, ours beside torchdistill and the plain loop of the field's repositories.

A block is so many steps of distillation on CIFAR images: loading, cropping and mirroring, the teacher's pass, the
student's step, and what each of them logs. Ours is `Trainer.fit` with the parts of a recipe; see peers.py for theirs.
The contestants take turns in one process, so that a machine that drifts favours none. Evaluation and checkpoints are
left out everywhere. All run the teacher at every step, but for ours with a bank of its outputs.

    python benchmarks/against_others.py [--pairs resnet56-resnet20 ...] [--turns 7] [--data FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measuring import add_common_arguments, device_of, in_turns, report, summary
from ours import banked, opened, recipe, training_block
from peers import Job, PilImages, plain_block, torchdistill_block
from torch import nn

from understudy.data import TensorSource
from understudy.runs.components import Components

NUM_STEPS = {"resnet56-resnet20": 20, "resnet32x4-resnet8x4": 5}  # of a block: seconds each on one core
LEARNS = ("kd", "kd+dot")


def main() -> None:
    arguments = parsed()
    device = device_of(arguments)
    rows = [row for pair in arguments.pairs for row in compared(pair, arguments, device)]
    settings = {name: value for name, value in vars(arguments).items() if isinstance(value, str | int)}
    report(table(rows), {"rows": rows, **settings, "device": str(device)}, arguments.json)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--pairs", nargs="+", default=list(NUM_STEPS), help="teacher-student")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, help="of a block")
    parser.add_argument("--workers", type=int, default=2, help="of the others' DataLoaders")
    parser.add_argument("--data", default="../shared/data/cifar10")
    return parser.parse_args()


def compared(pair: str, arguments: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """The rows of one pair of networks."""
    teacher, student = pair.split("-")
    num_steps = arguments.steps or NUM_STEPS.get(pair, 10)
    settings = recipe(
        arguments.data,
        (teacher, student),
        LEARNS,
        batch_size=arguments.batch,
        precision=arguments.precision,
        device=device.type,
    )
    components = opened(settings)
    contestants = {f"understudy {row}": training_block(components, [row], num_steps) for row in LEARNS}
    contestants |= others(components, arguments, device, num_steps)
    with TemporaryDirectory() as folder:
        from_bank = opened(banked(settings, Path(folder)))
        contestants |= {f"understudy, bank {row}": training_block(from_bank, [row], num_steps) for row in LEARNS}
        times = in_turns(contestants, arguments.turns, device)
    rows = []
    for learns in LEARNS:
        ours = f"understudy {learns}"
        for row in summary(times, ours):
            if row["name"].endswith(f" {learns}"):
                rate = num_steps * arguments.batch / row["wall_s"]
                rows.append({"pair": pair, "learns": learns, "steps": num_steps, "images_per_second": rate, **row})
    return rows


def others(
    components: Components, arguments: argparse.Namespace, device: torch.device, num_steps: int
) -> dict[str, Callable[[], float]]:
    """Blocks of what users would run instead."""
    assert isinstance(components.data.train, TensorSource)
    assert components.teacher_network is not None
    images = PilImages(components.data.train, components.student_network.mean, components.student_network.std)
    teacher = plainly(components.teacher_network.module, device).eval()

    def job() -> Job:
        return Job(
            data=images,
            teacher=teacher,
            student=plainly(components.make_student().module, device),
            device=device,
            batch_size=arguments.batch,
            num_steps=num_steps,
            num_workers=arguments.workers,
            precision=arguments.precision,
        )

    blocks = {
        "plain loop kd": plain_block(job(), is_dot=False),
        "plain loop kd+dot": plain_block(job(), is_dot=True),
    }
    torchdistill = torchdistill_block(job())
    return blocks if torchdistill is None else {**blocks, "torchdistill kd": torchdistill}


def plainly(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy without taps, laid out in memory as torch does it by itself."""
    plain = copy.deepcopy(module)
    for part in plain.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return plain.to(device).to(memory_format=torch.contiguous_format)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| pair | learns by | who | images a second | time, times ours | range | processor time, times ours |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        who = row["name"].removesuffix(f" {row['learns']}")
        low, high = row["range_wall"]
        lines.append(
            f"| {row['pair']} | {row['learns']} | {who} | {row['images_per_second']:,.0f} | {row['times_wall']:.2f} | "
            f"{low:.2f} to {high:.2f} | {row['times_processor']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
