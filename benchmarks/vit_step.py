"""What a training step of a DeiT student costs over the bare sum of its arithmetic, its teacher live or in a bank.

bare: teacher forward (bank: its outputs at hand), student forward with two heads and backward, the method's loss, a
fused AdamW step, in plain PyTorch on ready tensors; the projector's patches are taken from timm's forward_features, not
tapped. understudy: `Trainer.fit` on CIFAR-10 images with loader, crop and flip, taps, yardstick and log. All take turns
in one process.

    python benchmarks/vit_step.py [--turns 11] [--steps 3] [--batch 64] [--width 96] [--depth 4] [--data FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from bare import repeated
from measuring import add_common_arguments, device_of, in_turns, report, summary
from ours import banked, opened, training_block
from torch import Tensor, nn

import understudy as us
from understudy.core.heads import open_heads_
from understudy.core.precision import autocast
from understudy.methods.projector import projector_loss
from understudy.recipes.schema import recipe_from

LIMITS = {"live": 1.05, "bank": 1.08}
PROJECTOR = {
    "name": "projector",
    "distance": "correlation",
    "distance_weight": 1,
    "kl_weight": 0,
    "student_tap": "norm",
}
ROWS: list[dict[str, Any]] = [
    {"name": "deit", "method": {"name": "deit", "kind": "hard"}},
    {
        "name": "projector",
        "method": [PROJECTOR, {"name": "kd", "temperature": 1, "weight": 1, "on": "distilled"}],
        "task_weight": 1,
    },
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--steps", type=int, default=3, help="of every contestant in a turn")
    parser.add_argument("--width", type=int, default=96, help="channels of the student; a head of attention has 32")
    parser.add_argument("--depth", type=int, default=4, help="blocks of the student")
    parser.add_argument("--teacher", default="cifar:resnet20")
    parser.add_argument("--data", default="../shared/data/cifar10")
    arguments = parser.parse_args()
    device = device_of(arguments)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for learns, made in contestants(arguments, device, Path(folder)).items():
            times = in_turns(made, arguments.turns, device, warmup=2)
            for place, limit in LIMITS.items():
                found = summary({name: times[name] for name in times if name.endswith(place)}, f"bare, {place}")
                rows += [{**row, "learns": learns, "limit": limit} for row in found]
    facts = {name: getattr(arguments, name) for name in ("batch", "precision", "turns", "width", "depth", "teacher")}
    facts |= {"steps_a_turn": arguments.steps, "threads": torch.get_num_threads(), "device": str(device)}
    report(table(rows, arguments.steps), {"rows": rows, **facts}, arguments.json)


def contestants(
    arguments: argparse.Namespace, device: torch.device, folder: Path
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Blocks of steps by row and name; the bases are called "bare, live" and "bare, bank"."""
    student = {"patch_size": 4, "embed_dim": arguments.width, "depth": arguments.depth}
    student["num_heads"] = max(1, arguments.width // 32)
    settings = recipe_from(
        {
            "data": {
                "root": arguments.data,
                "augment": "crop_flip",
                "batch_size": arguments.batch,
                "image_size": 32,
            },
            "teacher": {"model": arguments.teacher, "weights": "none", "allow_weak": True},
            "student": {"model": "timm:deit_tiny_distilled_patch16_224", "weights": "none", "kwargs": student},
            "update": {"optimizer": "adamw", "lr": 5e-4},
            "rows": ROWS,
            "epochs": 240,
            "precision": arguments.precision,
            "device": device.type,
        }
    )
    looked_up, live = opened(banked(settings, folder / "bank")), opened(settings)
    found = {}
    for row in ROWS:
        name = row["name"]
        found[name] = {
            "bare, live": repeated(bare_step(name, settings, device, looks=True), arguments.steps),
            "understudy, live": training_block(live, [name], arguments.steps),
            "bare, bank": repeated(bare_step(name, settings, device, looks=False), arguments.steps),
            "understudy, bank": training_block(looked_up, [name], arguments.steps),
        }
    return found


def bare_step(learns: str, settings: Any, device: torch.device, *, looks: bool) -> Callable[[], None]:
    """One step, as a function; with `looks` False the teacher looks once, beforehand."""
    torch.manual_seed(0)
    teacher, student = (
        us.create_model(one.model, num_classes=10, weights="none", image_size=32, kwargs=one.kwargs).module.to(device)
        for one in (settings.teacher, settings.student)
    )
    teacher.eval().to(memory_format=torch.channels_last)
    student.train()
    open_heads_(student)
    batch = settings.data.batch_size
    drawn = torch.Generator(device).manual_seed(1)
    images = torch.rand(batch, 3, 32, 32, device=device, generator=drawn).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % 10
    embedding: dict[str, Tensor] = {}
    classifier = teacher.get_classifier()
    classifier.register_forward_pre_hook(lambda _, given: embedding.update(seen=given[0]))
    projector = nn.Linear(student.embed_dim, classifier.in_features, device=device)
    parameters = [*student.parameters(), *(projector.parameters() if learns == "projector" else ())]
    optimizer = torch.optim.AdamW(parameters, lr=5e-4, weight_decay=5e-4, fused=True)

    def look() -> tuple[Tensor, Tensor]:
        with autocast(settings.precision, device), torch.no_grad():
            return teacher(images), embedding["seen"]

    known = None if looks else look()

    def step() -> None:
        seen, deep = look() if known is None else known
        with autocast(settings.precision, device):
            tokens = student.forward_features(images)
            said, distilled = (logits.float() for logits in student.forward_head(tokens))
        task = F.cross_entropy(said, labels)
        if learns == "deit":
            loss = 0.5 * task + 0.5 * F.cross_entropy(distilled, seen.argmax(dim=1))
        else:
            patches = tokens[:, 2:].mean(dim=1).float()
            apart = projector_loss(projector(patches), deep, distance="correlation", alpha=4)
            log_teacher = F.log_softmax(seen.float(), dim=1)
            kl = F.kl_div(F.log_softmax(distilled, dim=1), log_teacher, reduction="batchmean", log_target=True)
            loss = task + apart + kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def table(rows: list[dict[str, Any]], steps: int) -> str:
    lines = [
        "| learns by | step of | ms, median | ms, least | times bare, clock | processor | at most |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        wall, least = (1000 * row[key] / steps for key in ("wall_s", "least_wall_s"))
        limit = f"{row['limit']:.2f}" if row["name"].startswith("understudy") else ""
        lines.append(
            f"| {row['learns']} | {row['name']} | {wall:.1f} | {least:.1f} | {row['times_wall']:.3f} | "
            f"{row['times_processor']:.3f} | {limit} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
