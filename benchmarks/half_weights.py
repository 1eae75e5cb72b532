"""A step in bfloat16 with all weights cast at once, beside autocast's casts at each use: time, and what is launched.

Both are `Trainer.fit` on the same rows and take turns in one process; their weights are the same bit for bit. The
operations that torch carries out in a step are counted (views, and tensors that are only allocated, are none): on a GPU
each is a kernel or a few, so their number is what a step waits for where its kernels are small.

    python benchmarks/half_weights.py [--pair resnet56-resnet20] [--rows kd kd+dot] [--turns 9] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from measuring import add_common_arguments, device_of, in_turns, report, summary
from ours import opened, recipe, training_block
from torch.utils._python_dispatch import TorchDispatchMode

from understudy.core.half_weights import HalfWeights

__all__ = ["one_by_one", "operations"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--pair", default="resnet56-resnet20", help="teacher-student")
    parser.add_argument("--rows", nargs="+", default=["kd", "kd+dot"])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="of a block")
    parser.add_argument("--data", default="../shared/data/cifar10")
    arguments = parser.parse_args()
    arguments.precision, device = "bfloat16", device_of(arguments)
    common = {"batch_size": arguments.batch, "precision": arguments.precision, "capture": False, "device": device.type}
    teacher, student = arguments.pair.split("-")
    components = opened(recipe(arguments.data, (teacher, student), arguments.rows, **common))
    rows = []
    for row in arguments.rows:
        ways = {
            "cast at each use": one_by_one(training_block(components, [row], arguments.steps)),
            "cast at once": training_block(components, [row], arguments.steps),
        }
        found = summary(in_turns(ways, arguments.turns, device, warmup=2), "cast at each use")
        counts = {name: operations(block) / arguments.steps for name, block in ways.items()}
        rows += [{**one, "row": row, "operations": counts[one["name"]]} for one in found]
    settings = {name: value for name, value in vars(arguments).items() if isinstance(value, str | int)}
    report(table(rows, arguments.steps), {"rows": rows, **settings, "device": str(device)}, arguments.json)


def table(rows: list[dict[str, Any]], steps: int) -> str:
    lines = [
        "| row | weights | ms a step | times | range over turns | processor | operations a step |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        low, high = row["range_wall"]
        lines.append(
            f"| {row['row']} | {row['name']} | {1000 * row['wall_s'] / steps:.1f} | {row['times_wall']:.2f} | "
            f"{low:.2f} to {high:.2f} | {row['times_processor']:.2f} | {row['operations']:.0f} |"
        )
    return "\n".join(lines)


def one_by_one(block: Callable[[], object]) -> Callable[[], object]:
    """The block as autocast alone would take it."""

    @contextmanager
    def nothing(halves: HalfWeights, images: torch.Tensor) -> Iterator[None]:
        yield

    def plain() -> object:
        with mock.patch.object(HalfWeights, "in_place", nothing):
            return block()

    return plain


class _Operations(TorchDispatchMode):
    """Counts what torch dispatches, but for what launches nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        only_allocates = func.overloadpacket.__name__ in ("empty", "empty_like", "new_empty", "empty_strided", "detach")
        self.count += not (func.is_view or only_allocates)
        return made


def operations(block: Callable[[], object]) -> int:
    """How many a block carries out, once it has run before."""
    with _Operations() as counter:
        block()
    return counter.count


if __name__ == "__main__":
    main()
