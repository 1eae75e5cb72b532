"""What each method adds to a training step, beside plain KD: milliseconds and memory held for the backward pass.

A step is the student's forward, the losses, the backward pass and the update, on one fixed batch whose teacher pass is
done beforehand. Every method's step is timed in turn with KD's, in one process, so that a machine that drifts does not
favour either; the memory is that of the tensors which autograd keeps, each storage once.

    python benchmarks/method_cost.py [--pairs 20] [--batch 64] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import understudy as us
from understudy.data.augment.copies import with_rotations
from understudy.methods import METHODS
from understudy.methods.base import OF_PLACES, MethodConfig
from understudy.training.build import BuildContext, build_student, tap_teacher
from understudy.training.connector_weights import save_connectors
from understudy.training.student import Student
from understudy.utils.machine import describe_environment

NUM_CLASSES, IMAGE_SIZE, NUM_TRAIN = 100, 32, 50_000
FIRST_STAGES = {"ft": "paraphraser", "sskd": "head", "hsakd": "heads"}  # of those that start from another run


def main() -> None:
    arguments = parsed()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = [name for name in sorted(METHODS) if name != "kd" and not METHODS[name].needs & OF_PLACES]
    rows = [measured(name, arguments.pairs, arguments.batch, device) for name in names]
    environment = describe_environment()
    print(table(rows))
    print(f"\nn = {arguments.pairs} interleaved pairs, batch {arguments.batch}; {environment['hardware']}")
    print(environment["versions"])
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "pairs": arguments.pairs, **environment}, indent=1))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measured(name: str, pairs: int, batch_size: int, device: torch.device) -> dict[str, object]:
    """Median step of the method and of KD, and what each keeps for backward."""
    with TemporaryDirectory() as folder:
        config = METHODS[name].Config(**first_run(name, batch_size, device, Path(folder)))
        method = stepping(config, batch_size, device)
        kd = stepping(METHODS["kd"].Config(), batch_size, device, like=config)
    for _ in range(2):
        method()
        kd()
    times = [(timed(method, device), timed(kd, device)) for _ in range(pairs)]
    ratios = [ours / theirs for ours, theirs in times]
    return {
        "name": name,
        "step_ms": statistics.median(ours for ours, _ in times),
        "kd_step_ms": statistics.median(theirs for _, theirs in times),
        "ratio": statistics.median(ratios),
        "kept_mib": kept_mib(method),
        "kd_kept_mib": kept_mib(kd),
    }


def first_run(name: str, batch_size: int, device: torch.device, folder: Path) -> dict[str, str]:
    """Where a method starts from another run: the settings that say so, after such a run of no steps."""
    if name not in FIRST_STAGES:
        return {}
    first = student_and_batch(METHODS[name].Config(stage=FIRST_STAGES[name]), batch_size, device)[0]
    save_connectors(folder, [weighted.method for weighted in first.methods])
    return {"init_from": str(folder)}


def stepping(
    config: MethodConfig, batch_size: int, device: torch.device, *, like: MethodConfig | None = None
) -> Callable[[], None]:
    """A function that takes one step of a student under this method; with `like`, on the batch that method needs."""
    student, batch, seen = student_and_batch(config, batch_size, device, like=like)
    return lambda: one_step(student, batch, seen)


def student_and_batch(
    config: MethodConfig, batch_size: int, device: torch.device, *, like: MethodConfig | None = None
) -> tuple[Student, us.Batch, us.Observation]:
    """A student of resnet8x4 under resnet32x4, a batch, and what the teacher says of it."""
    torch.manual_seed(0)
    teacher_net = us.create_model("cifar:resnet32x4", num_classes=NUM_CLASSES, weights="none").module
    student_net = us.create_model("cifar:resnet8x4", num_classes=NUM_CLASSES, weights="none").module
    teacher = us.LiveTeacher(teacher_net.to(device, memory_format=torch.channels_last))
    tap_teacher(teacher, [config])
    labels = torch.arange(NUM_TRAIN) % NUM_CLASSES
    batch = us.Batch(
        images=torch.rand(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE, device=device),
        targets=labels[:batch_size].to(device),
        indices=torch.arange(batch_size, device=device),
    )
    needs = (like or config).method.needs_for(like or config)
    if "copies" in needs:
        batch = with_rotations(batch)
    if "pairs" in needs:
        batch = with_second_view(batch)
    student = build_student(
        us.StudentSpec(
            student_net.to(device, memory_format=torch.channels_last), method=config, schedule=us.Schedule()
        ),
        BuildContext(
            task=us.Classification(NUM_CLASSES),
            num_classes=NUM_CLASSES,
            sample=batch.images[:2],
            teacher=teacher,
            train_labels=labels,
        ),
    )
    student.train()
    return student, batch, teacher.observe(batch)


def with_second_view(batch: us.Batch) -> us.Batch:
    """Each image beside noise, which costs what a second view of it does."""
    assert batch.indices is not None
    return us.Batch(
        images=torch.cat([batch.images, torch.rand_like(batch.images)]),
        targets=batch.targets.repeat(2),
        indices=batch.indices.repeat(2),
        copies=torch.arange(2, device=batch.images.device).repeat_interleave(len(batch.images)),
        num_plain=len(batch.images),
    )


def one_step(student: Student, batch: us.Batch, seen: us.Observation) -> None:
    student.begin_step(progress=0.0, epochs=240)
    student.step(batch, seen, epoch=1)


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def kept_mib(step: Callable[[], None]) -> float:
    """MiB of the storages that autograd keeps for one step's backward pass."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(storages.values()) / 2**20


def table(rows: list[dict[str, object]]) -> str:
    lines = ["| method | step, times KD's | added ms | kept for backward, added MiB |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        added_ms = (float(str(row["ratio"])) - 1) * float(str(row["kd_step_ms"]))  # of pairs, so that drift cancels
        added_mib = float(str(row["kept_mib"])) - float(str(row["kd_kept_mib"]))
        lines.append(f"| {row['name']} | {float(str(row['ratio'])):.2f} | {added_ms:+.1f} | {added_mib:+.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
