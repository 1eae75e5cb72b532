"""Time of a training step with several processes: ours under both updates, beside DistributedDataParallel.

All three train the same resnet20 by cross-entropy and KD on the same rows, 64 of 32x32 pixels over all processes, whose
teacher pass is done beforehand. A step is forward, losses, backward pass(es), exchange of gradients, and the weights'
change; ours includes the exchange of row counts. DistributedDataParallel averages the first of DOT's two backward
passes alone, so beside `dot` there is nothing to time. The three take turns, the processes meet before each, so that a
machine that drifts favours none; a step is as long as its slowest process.

    torchrun --nproc-per-node 2 benchmarks/distributed.py [--repeats 40] [--batch 64] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import understudy as us
from understudy.distributed.launch import joined
from understudy.distributed.world import World
from understudy.methods.kd import kd_loss
from understudy.training.build import BuildContext, build_student, tap_teacher
from understudy.utils.machine import describe_environment

NUM_CLASSES, IMAGE_SIZE = 100, 32
UPDATES: dict[str, type[us.Joint.Config] | type[us.DOT.Config]] = {"joint": us.Joint.Config, "dot": us.DOT.Config}
PEER = "DistributedDataParallel"


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1 if not torch.cuda.is_available() else torch.get_num_threads())
    with joined() as world:
        if world.size == 1:
            raise SystemExit("start it with torchrun --nproc-per-node 2 or more")
        device = torch.device("cuda", world.local_rank) if torch.cuda.is_available() else torch.device("cpu")
        batch, teacher = drawn(arguments.batch, world, device)
        seen = teacher.observe(batch)
        steps = {name: ours(name, batch, seen, teacher, world) for name in UPDATES}
        steps[PEER] = theirs(batch, seen, device)
        times = taken_in_turn(steps, arguments.repeats, device)
        if world.is_first:
            report(times, arguments, world.size)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def network(device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    module = us.create_model("cifar:resnet20", num_classes=NUM_CLASSES, weights="none").module
    return module.to(device, memory_format=torch.channels_last)


def drawn(batch_size: int, world: World, device: torch.device) -> tuple[us.Batch, us.LiveTeacher]:
    """This process's rows, and a teacher."""
    num_rows = batch_size // world.size
    torch.manual_seed(world.rank)
    images = torch.rand(num_rows, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)
    batch = us.Batch(images, torch.arange(num_rows, device=device) % NUM_CLASSES)
    teacher = us.LiveTeacher(network(device))
    tap_teacher(teacher, [us.methods.KD.Config()])
    return batch, teacher


def ours(
    update: str, batch: us.Batch, seen: us.Observation, teacher: us.LiveTeacher, world: World
) -> Callable[[], None]:
    """A step of a Student."""
    spec = us.StudentSpec(
        network(batch.images.device), method=us.methods.KD.Config(), update=UPDATES[update](), schedule=us.Schedule()
    )
    around = BuildContext(
        task=us.Classification(NUM_CLASSES),
        num_classes=NUM_CLASSES,
        sample=batch.images[:2],
        teacher=teacher,
        world=world,
    )
    student = build_student(spec, around)
    student.train()

    def step() -> None:
        student.begin_step(progress=0.0, epochs=240)
        student.step(batch, seen, epoch=1, rows=world.rows(len(batch.images)))

    return step


def theirs(batch: us.Batch, seen: us.Observation, device: torch.device) -> Callable[[], None]:
    """The same step as a user of torch would write it."""
    model = DistributedDataParallel(network(device), device_ids=[device] if device.type == "cuda" else None)
    config, default = us.methods.KD.Config(), us.methods.KD.default_loss
    settings = us.Joint.Config()
    optimizer = torch.optim.SGD(
        model.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay, fused=True
    )

    def step() -> None:
        logits = model(batch.images)
        task: Tensor = default.task * cross_entropy(logits, batch.targets)
        distill = default.distill * kd_loss(logits, seen.output, temperature=config.temperature)
        (task + distill).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def taken_in_turn(
    steps: dict[str, Callable[[], None]], repeats: int, device: torch.device, warmup: int = 5
) -> dict[str, list[float]]:
    """Milliseconds of every step by name, of the slowest process each."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(warmup + repeats):
        for name, step in steps.items():
            dist.barrier()
            began = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(1000 * (time.perf_counter() - began))
    slowest = torch.tensor([times[name][warmup:] for name in steps])
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return dict(zip(steps, slowest.tolist(), strict=True))


def report(times: dict[str, list[float]], arguments: argparse.Namespace, num_processes: int) -> None:
    environment = describe_environment()
    rows = [
        {
            "name": name,
            "step_ms": statistics.median(found),
            # Of turns, so that a machine's drift cancels.
            "ratio": statistics.median(mine / peer for mine, peer in zip(found, times[PEER], strict=True)),
        }
        for name, found in times.items()
    ]
    print("| step | ms | times DistributedDataParallel's |\n| --- | ---: | ---: |")
    for row in rows:
        print(f"| {row['name']} | {row['step_ms']:.1f} | {row['ratio']:.2f} |")
    print(f"\nn = {arguments.repeats} turns, {num_processes} processes, batch {arguments.batch} over all of them")
    print(environment["hardware"], environment["versions"])
    if arguments.json:
        settings = {"repeats": arguments.repeats, "batch": arguments.batch, "processes": num_processes}
        arguments.json.write_text(json.dumps({"rows": rows, **settings, **environment}, indent=1))


if __name__ == "__main__":
    main()
