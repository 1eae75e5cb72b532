"""What a whole training step costs over the bare sum of its arithmetic, for KD and for DOT.

bare: teacher forward, student forward and backward (DOT: two), SGD step, in plain PyTorch on ready tensors (bare.py).
understudy: `Trainer.fit` with its loader, crop and flip, the yardstick and the log. All contestants take turns in one
process. The fraction is that of the rate at which this GPU was measured to multiply large matrices.

    python benchmarks/step_time.py [--turns 15] [--steps 4] [--batch 64] [--precision bfloat16] [--compiled]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from bare import PAIRS, bare_step, flops_of, matmul_rate, one_pass, our_block, repeated, two_passes
from measuring import add_common_arguments, device_of, in_turns, report, summary, timed

LIMITS = {"KD": {"resnet56-resnet20": 1.06, "resnet32x4-resnet8x4": 1.03}, "DOT": dict.fromkeys(PAIRS, 1.04)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="of every contestant in a turn")
    parser.add_argument("--pair", choices=PAIRS, help="one instead of both")
    parser.add_argument("--update", choices=LIMITS, help="one instead of both")
    parser.add_argument("--compiled", action="store_true", help="torch.compile, too; on CUDA also with CUDA graphs")
    arguments = parser.parse_args()
    device = device_of(arguments)
    # On the CPU the share says nothing: oneDNN's convolutions outran MKL's product of two 2048 x 2048 matrices by half.
    rate = matmul_rate(device, arguments.precision, timed) if device.type == "cuda" else 0.0
    rows: list[dict[str, Any]] = []
    for pair in [arguments.pair] if arguments.pair else PAIRS:
        for update in [arguments.update] if arguments.update else LIMITS:
            made = contestants(pair, update, arguments, device)
            flops = flops_of(made["bare"]) * arguments.steps
            found = summary(in_turns(made, arguments.turns, device, warmup=2), "bare")
            limit = LIMITS[update][pair]
            rows += [
                {
                    **row,
                    "pair": pair,
                    "update": update,
                    "limit": limit,
                    "of_matmul_rate": flops / row["wall_s"] / rate if rate else None,
                }
                for row in found
            ]
    facts = {"batch": arguments.batch, "precision": arguments.precision, "turns": arguments.turns}
    facts |= {"steps_a_turn": arguments.steps, "device": str(device), "matmul_gflops": round(rate / 1e9)}
    report(table(rows, arguments.steps), {"rows": rows, **facts}, arguments.json)


def contestants(pair: str, update: str, arguments: argparse.Namespace, device: Any) -> dict[str, Callable[[], None]]:
    """Blocks of steps, by name; the base is called "bare"."""
    common: dict[str, Any] = {"batch": arguments.batch, "precision": arguments.precision}
    gradients = two_passes if update == "DOT" else one_pass

    def bare(**settings: Any) -> Callable[[], None]:
        return repeated(bare_step(pair, device, gradients=gradients, **common, **settings), arguments.steps)

    def ours(**settings: Any) -> Callable[[], None]:
        return our_block(pair, device, dot=update == "DOT", num_steps=arguments.steps, **common, **settings)

    found = {
        "bare": bare(),
        "bare, contiguous": bare(channels_last=False),
        "understudy": ours(),
        "understudy, fold_teacher: false": ours(fold_batch_norm=False),
    }
    if arguments.compiled:
        found["bare, compiled"] = bare(compile_mode="default")
        found["understudy, compile: true"] = ours(compile=True)
        if device.type == "cuda":
            found["bare, CUDA graphs"] = bare(compile_mode="reduce-overhead")
    return found


def table(rows: list[dict[str, Any]], steps: int) -> str:
    lines = [
        "| pair | update | step of | ms, median | ms, least | times bare, clock | processor | matmul rate | at most |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        wall, least = (1000 * row[key] / steps for key in ("wall_s", "least_wall_s"))
        limit = f"{row['limit']:.2f}" if row["name"] == "understudy" else ""
        share = "" if row["of_matmul_rate"] is None else f"{100 * row['of_matmul_rate']:.0f} %"
        lines.append(
            f"| {row['pair']} | {row['update']} | {row['name']} | {wall:.1f} | {least:.1f} | {row['times_wall']:.3f} | "
            f"{row['times_processor']:.3f} | {share} | {limit} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
