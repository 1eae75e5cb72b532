"""What a training step costs whose teacher is looked up in a bank, over the bare arithmetic that is left of it.

bare: student forward and backward (DOT: two), SGD step, in plain PyTorch on ready tensors, the teacher's logits among
them. understudy, bank: `Trainer.fit` on CIFAR-10 images with loader, crop and flip, look-up, yardstick and log.
understudy, live and bare, live run the teacher at every step. All take turns in one process.

    python benchmarks/bank_step.py [--turns 15] [--steps 6] [--batch 64] [--data FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from bare import PAIRS, bare_step, one_pass, repeated, two_passes
from measuring import add_common_arguments, device_of, in_turns, report, summary
from ours import banked, opened, recipe, training_block

LIMITS = {"resnet56-resnet20": 1.10, "resnet32x4-resnet8x4": 1.06}
GRADIENTS = {"kd": one_pass, "kd+dot": two_passes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=6, help="of every contestant in a turn")
    parser.add_argument("--pair", choices=PAIRS, help="one instead of both")
    parser.add_argument("--data", default="../shared/data/cifar10")
    arguments = parser.parse_args()
    device = device_of(arguments)
    rows: list[dict[str, Any]] = []
    for pair in [arguments.pair] if arguments.pair else PAIRS:
        with TemporaryDirectory() as folder:
            for learns, made in contestants(pair, arguments, device, Path(folder)).items():
                found = summary(in_turns(made, arguments.turns, device, warmup=2), "bare")
                rows += [{**row, "pair": pair, "learns": learns, "limit": LIMITS[pair]} for row in found]
    facts = {"batch": arguments.batch, "precision": arguments.precision, "turns": arguments.turns}
    facts |= {"steps_a_turn": arguments.steps, "threads": torch.get_num_threads(), "device": str(device)}
    report(table(rows, arguments.steps), {"rows": rows, **facts}, arguments.json)


def contestants(
    pair: str, arguments: argparse.Namespace, device: torch.device, folder: Path
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Blocks of steps by row and name; the base is called "bare"."""
    teacher, student = PAIRS[pair]
    common = {"batch_size": arguments.batch, "precision": arguments.precision, "device": device.type}
    settings = recipe(arguments.data, (teacher, student), list(GRADIENTS), **common)
    looked_up, live = opened(banked(settings, folder / "bank")), opened(settings)
    found = {}
    for learns, gradients in GRADIENTS.items():
        bare = {
            looks: bare_step(
                pair, device, batch=arguments.batch, precision=arguments.precision, gradients=gradients, looks=looks
            )
            for looks in (False, True)
        }
        found[learns] = {
            "bare": repeated(bare[False], arguments.steps),
            "bare, live": repeated(bare[True], arguments.steps),
            "understudy, bank": training_block(looked_up, [learns], arguments.steps),
            "understudy, live": training_block(live, [learns], arguments.steps),
        }
    return found


def table(rows: list[dict[str, Any]], steps: int) -> str:
    lines = [
        "| pair | learns by | step of | ms, median | ms, least | times bare, clock | processor | at most |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        wall, least = (1000 * row[key] / steps for key in ("wall_s", "least_wall_s"))
        limit = f"{row['limit']:.2f}" if row["name"] == "understudy, bank" else ""
        lines.append(
            f"| {row['pair']} | {row['learns']} | {row['name']} | {wall:.1f} | {least:.1f} | {row['times_wall']:.3f} | "
            f"{row['times_processor']:.3f} | {limit} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
