"""Ways to DOT's two gradients, held against a KD step with a live teacher: what the second one costs.

two passes: the first backward pass keeps the graph, the second frees it (what understudy does). batched VJP: the two
losses' gradients at the logits go back as one batch of vectors (`is_grads_batched`, torch.vmap). two forwards: a whole
pass for each loss. Each in plain PyTorch with the same update; understudy's own steps beside them. All take turns.

    python benchmarks/dot_passes.py [--turns 15] [--batch 64] [--precision bfloat16] [--compiled] [--json FILE]
"""

from __future__ import annotations

import argparse
from typing import Any

from bare import PAIRS, bare_step, batched_vjp, one_pass, our_block, repeated, two_forwards, two_passes
from measuring import add_common_arguments, device_of, in_turns, report, summary

WAYS = {"two passes": two_passes, "batched VJP": batched_vjp, "two forwards": two_forwards}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=2, help="of every contestant in a turn")
    parser.add_argument("--pair", choices=PAIRS, help="one instead of both")
    parser.add_argument("--compiled", action="store_true", help="torch.compile, too; on CUDA also with CUDA graphs")
    arguments = parser.parse_args()
    device = device_of(arguments)
    rows: list[dict[str, Any]] = []
    for pair in [arguments.pair] if arguments.pair else PAIRS:
        made = contestants(pair, arguments, device)
        rows += [{**row, "pair": pair} for row in summary(in_turns(made, arguments.turns, device, warmup=2), "KD")]
    facts = {"batch": arguments.batch, "precision": arguments.precision, "turns": arguments.turns}
    report(table(rows, arguments.steps), {"rows": rows, **facts, "device": str(device)}, arguments.json)


def contestants(pair: str, arguments: argparse.Namespace, device: Any) -> dict[str, Any]:
    """Blocks of steps, by name; the base is called "KD"."""
    common: dict[str, Any] = {"batch": arguments.batch, "precision": arguments.precision}

    def bare(**settings: Any) -> Any:
        return repeated(bare_step(pair, device, **common, **settings), arguments.steps)

    found = {"KD": bare(gradients=one_pass)}
    found |= {f"DOT, {name}": bare(gradients=way) for name, way in WAYS.items()}
    for name, dot in (("KD", False), ("DOT", True)):
        found[f"understudy, {name}"] = our_block(pair, device, dot=dot, num_steps=arguments.steps, **common)
    if arguments.compiled:
        modes = {"compiled": "default"} | ({"CUDA graphs": "reduce-overhead"} if device.type == "cuda" else {})
        for what, mode in modes.items():
            found[f"KD, {what}"] = bare(gradients=one_pass, compile_mode=mode)
            found[f"DOT, two passes, {what}"] = bare(gradients=two_passes, compile_mode=mode)
    return found


def table(rows: list[dict[str, Any]], steps: int) -> str:
    lines = [
        "| pair | step of | ms, median | ms, least | times KD, clock | processor |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        wall, least = (1000 * row[key] / steps for key in ("wall_s", "least_wall_s"))
        lines.append(
            f"| {row['pair']} | {row['name']} | {wall:.1f} | {least:.1f} | {row['times_wall']:.3f} | "
            f"{row['times_processor']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
