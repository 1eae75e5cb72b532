"""What a step of segmentation and of detection costs over the bare arithmetic of torchvision's reference loops.

Steps: `bare` is the loop of torchvision's references/ on ready tensors: a network in training mode, its losses (of
detectors those that it returns for images and targets), backward, SGD; with KD or DKD of a teacher without gradient.
`understudy` is `Trainer.take_step` on the same batches, with its checks, yardstick and log. Rows: five students
beside each other, and the sum of their parts (one pass of the teacher, then each student's steps). Loader: batches of
photographs as our loaders give them, beside decoding, scaling, cutting and mirroring them by torchvision's functions.
Memory: the largest resident set of a process that trains, ours beside the bare loop.

    python benchmarks/dense_steps.py [--task detection] [--turns 7] [--photographs BOXES] [--masks MASKS] [--memory]
"""

from __future__ import annotations

import argparse
import copy
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from measuring import add_common_arguments, device_of, in_turns, report, summary
from torch import Tensor, nn

import understudy as us
from understudy.core.boxes import Boxes
from understudy.data import DataConfig, open_data, train_loader
from understudy.data.augment.boxes import BoxRendering
from understudy.data.augment.dense import masked_image
from understudy.data.loaders.boxes import BoxTrainLoader
from understudy.data.sources.coco_json import read_coco
from understudy.data.sources.shapes import drawn_shapes, drawn_shapes_with_boxes
from understudy.methods import METHODS
from understudy.methods.dkd import dkd_loss
from understudy.methods.kd import kd_loss
from understudy.models.segmentation.segmenter import CoarseSegmenter

CLASSES = 4  # of drawn shapes; boxes have one less
SIDE = 96
ROWS = {
    "segmentation": ({}, {"name": "kd", "temperature": 1}, {"name": "dist"}, {"name": "dkd", "warmup_epochs": 0},
                     {"name": "at"}),
    "detection": ({}, {"name": "kd", "temperature": 1}, {"name": "dist"},
                  {"name": "dkd", "alpha": 1, "beta": 0.25, "temperature": 1, "warmup_epochs": 0},
                  {"name": "fgfi", "student_stages": [0, 1, 2], "teacher_stages": [0, 1, 2]}),
}  # fmt: skip
FEW = {"box_batch_size_per_image": 64, "rpn_post_nms_top_n_train": 200, "rpn_pre_nms_top_n_train": 400}
WINDOW = 320  # of masks
SHOWN = (BoxRendering(shorter_sides=(160, 192), longer_side=320), BoxRendering())  # photographs; the other is COCO's


def main() -> None:
    arguments = parsed()
    device = device_of(arguments)
    if arguments.of is not None:  # a child that trains, and says what it held
        work = contestants(arguments.task, arguments, device)[arguments.of]()
        for _ in range(3):
            work()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    rows: list[dict[str, Any]] = []
    tasks = [arguments.task] if arguments.task else list(ROWS)
    if arguments.memory:  # first: a process hands its peak on to its children
        rows += [
            {**memory(task, *pair), "task": task}
            for task in tasks
            for pair in (("understudy", "bare"), ("five rows", "bare"))
        ]
    for task in tasks if arguments.turns else ():
        makers = contestants(task, arguments, device)
        for name, base in (("understudy alone", "bare alone"), ("understudy", "bare"), ("five rows", "parts")):
            found = in_turns({key: makers[key]() for key in (base, name)}, arguments.turns, device, warmup=1)
            rows += [{**row, "task": task, "base": base} for row in summary(found, base) if row["name"] != base]
        if arguments.photographs is not None and task == "detection":
            for shown in SHOWN:
                found = in_turns(loaders(arguments.photographs, arguments.batch, shown), arguments.turns, device)
                name = f"loader, {max(shown.shorter_sides or ())} px"
                rows += [
                    {**row, "name": name, "task": task, "base": "decoding"} for row in summary(found, "decoding")[1:]
                ]
        if arguments.masks is not None and task == "segmentation":
            found = in_turns(mask_loaders(arguments.masks, arguments.batch), arguments.turns, device)
            rows += [{**row, "task": task, "base": "decoding"} for row in summary(found, "decoding")[1:]]
    facts = {"batch": arguments.batch, "turns": arguments.turns, "steps_a_turn": arguments.steps, "side": SIDE}
    report(table(rows), {"rows": rows, **facts, "device": str(device)}, arguments.json)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.set_defaults(batch=4)
    parser.add_argument("--task", choices=ROWS)
    parser.add_argument("--turns", type=int, default=7, help="0: memory alone")
    parser.add_argument("--steps", type=int, default=2, help="of every contestant in a turn")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs with boxes in COCO's form")
    parser.add_argument("--masks", type=Path, help="a folder of photographs with masks")
    parser.add_argument("--memory", action="store_true", help="measure it too")
    parser.add_argument("--of", help=argparse.SUPPRESS)
    return parser.parse_args()


def contestants(
    task: str, arguments: argparse.Namespace, device: torch.device
) -> dict[str, Callable[[], Callable[[], object]]]:
    """What makes blocks of steps on the same batches, by name."""
    batches = drawn(task, arguments.batch, arguments.steps, device)
    bare = bare_mask_step if task == "segmentation" else bare_box_step
    one = ROWS[task][1:2] if task == "segmentation" else ROWS[task][3:4]
    return {
        "bare alone": lambda: bare(batches, device, has_teacher=False),
        "understudy alone": lambda: ours(task, batches, ROWS[task][:1], device),
        "bare": lambda: bare(batches, device, has_teacher=True),
        "understudy": lambda: ours(task, batches, one, device),
        "five rows": lambda: ours(task, batches, ROWS[task], device),
        "parts": lambda: parts(task, batches, device),
    }


def drawn(task: str, batch: int, steps: int, device: torch.device) -> list[us.Batch]:
    found = []
    for seed in range(steps):
        if task == "segmentation":
            images, masks = drawn_shapes(batch, seed=seed, side=SIDE)
            one = us.Batch(images.float() / 255, masks, indices=torch.arange(batch))
        else:
            images, boxes = drawn_shapes_with_boxes(batch, seed=seed, side=SIDE)
            one = us.Batch(images.float() / 255, boxes, indices=torch.arange(batch))
        found.append(one.to(device))
    return found


def network(task: str, device: torch.device, *, seed: int = 0) -> nn.Module:
    """torchvision's own, of random weights."""
    torch.manual_seed(seed)
    if task == "segmentation":
        segmenter = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large
        return segmenter(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True).to(device)
    detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    sizes = {"min_size": SIDE, "max_size": SIDE, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    return detector(weights=None, weights_backbone=None, num_classes=CLASSES, **sizes, **FEW).to(device)


def ours_of(task: str, module: nn.Module) -> nn.Module:
    return us.detector(module, CLASSES - 1) if task == "detection" else CoarseSegmenter(module)


def trainer(task: str, batches: list[us.Batch], rows: Any, device: torch.device) -> us.Trainer:
    """One of the rows beside each other, on the same networks as the bare loop's."""
    teacher = None if rows == ROWS[task][:1] else us.LiveTeacher(ours_of(task, network(task, device, seed=1)))
    configs = [
        METHODS[row["name"]].Config(**{k: v for k, v in row.items() if k != "name"}) if row else () for row in rows
    ]
    kind = us.Detection(CLASSES - 1) if task == "detection" else us.Segmentation(num_classes=CLASSES)
    specs = [
        us.StudentSpec(
            ours_of(task, network(task, device)), name=str(number), method=method, update=us.Joint.Config(lr=1e-4)
        )
        for number, method in enumerate(configs)
    ]
    return us.trainer(task=kind, teacher=teacher, students=specs, sample=batches[0])


def ours(task: str, batches: list[us.Batch], rows: Any, device: torch.device) -> Callable[[], object]:
    training = trainer(task, batches, rows, device)
    training.begin(epochs=1, steps_per_epoch=10**6)
    for student in training.students:
        student.train()

    def block() -> None:
        for batch in batches:
            training.take_step(batch)
            training.step_in_epoch += 1
        training.measures.close_interval()

    return block


def parts(task: str, batches: list[us.Batch], device: torch.device) -> Callable[[], None]:
    """One teacher pass a batch, then the steps of each student on its own."""
    training = trainer(task, batches, ROWS[task], device)
    assert training.teacher is not None

    def block() -> None:
        seen = [(batch, training.teacher.observe(batch)) for batch in batches]
        for student in training.students:
            student.train()
            for batch, observed in seen:
                student.begin_step(progress=0.0, epochs=10)
                student.step(batch, observed, epoch=1)

    return block


def bare_mask_step(batches: list[us.Batch], device: torch.device, *, has_teacher: bool) -> Callable[[], None]:
    """references/segmentation/train.py on ready tensors: both heads' cross-entropy, and KD of the logits."""
    student, teacher = network("segmentation", device), network("segmentation", device, seed=1).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    student.train()

    def block() -> None:
        for batch in batches:
            labels = batch.targets.long()
            found = student(batch.images)
            loss = F.cross_entropy(found["out"], labels) + 0.4 * F.cross_entropy(found["aux"], labels)
            if has_teacher:
                with torch.no_grad():
                    taught = teacher(batch.images)["out"]
                loss = loss + kd_loss(as_rows(found["out"]), as_rows(taught), temperature=1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return block


def as_rows(logits: Tensor) -> Tensor:
    """At stride 8, where both loops compare them."""
    return logits[:, :, ::8, ::8].movedim(1, -1).flatten(0, -2)


def bare_box_step(batches: list[us.Batch], device: torch.device, *, has_teacher: bool) -> Callable[[], None]:
    """references/detection/engine.py on ready tensors; DKD with both heads asked about the student's proposals."""
    student, teacher = (
        network("detection", device),
        us.detector(network("detection", device, seed=1), CLASSES - 1).eval(),
    )
    adapted = us.detector(copy.deepcopy(student), CLASSES - 1).train() if has_teacher else None
    learner: nn.Module = student.train() if adapted is None else adapted
    optimizer = torch.optim.SGD(learner.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    listed = [(list(batch.images), targets_of(batch.targets)) for batch in batches]

    def loss_of(place: int) -> Tensor:
        if adapted is None:
            return torch.stack(list(student(*listed[place]).values())).sum()
        batch = batches[place]
        with torch.no_grad():
            theirs = teacher(batch.images)
        maps = adapted(batch.images)
        proposals = adapted.propose(maps, batch.images, batch.targets)
        scored = adapted.score(maps, proposals)
        with torch.no_grad():
            taught = teacher.score(theirs, proposals)
        distill = dkd_loss(scored.logits, taught.logits, proposals.labels, alpha=1, beta=0.25, temperature=1)
        return torch.stack(list(adapted.losses(proposals, scored).values())).sum() + distill

    def block() -> None:
        for place in range(len(batches)):
            loss = loss_of(place)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return block


def targets_of(boxes: Boxes) -> list[dict[str, Tensor]]:
    """As torchvision's detectors take them: classes from 1 on."""
    found = []
    for image in range(len(boxes.sizes)):
        here = boxes.image == image
        found.append({"boxes": boxes.boxes[here], "labels": boxes.labels[here] + 1})
    return found


def mask_loaders(root: Path, batch: int) -> dict[str, Callable[[], object]]:
    """Likewise with masks: decoded, scaled by a factor from 0.5 to 2, padded, cut to 320 pixels, mirrored."""
    config = DataConfig(root=str(root), image_size=WINDOW, batch_size=batch, workers=0)
    source = open_data(config).train
    loader = train_loader(source, config, seed=0, image_size=WINDOW)
    to = torchvision.transforms.v2.functional
    nearest = torchvision.transforms.InterpolationMode.NEAREST

    def decoding() -> None:
        for step in range(loader.steps_per_epoch):
            images, masks = [], []
            for index in range(step * batch, (step + 1) * batch):
                image, mask = masked_image(source, index)
                factor, down, right, mirror = torch.rand(4).tolist()
                size = [round(side * (0.5 + 1.5 * factor)) for side in image.shape[1:]]
                image, mask = to.resize(image, size, antialias=True), to.resize(mask[None], size, interpolation=nearest)
                pad = [0, 0, max(0, WINDOW - size[1]), max(0, WINDOW - size[0])]
                image, mask = to.pad(image, pad), to.pad(mask, pad, fill=255)
                place = [
                    int(draw * (have - WINDOW + 1)) for draw, have in zip((down, right), image.shape[1:], strict=True)
                ]
                image, mask = (to.crop(one, *place, WINDOW, WINDOW) for one in (image, mask))
                if mirror < 0.5:
                    image, mask = to.horizontal_flip(image), to.horizontal_flip(mask)
                images.append(image.float().div_(255))
                masks.append(mask[0].long())
            torch.stack(images), torch.stack(masks)

    return {"decoding": decoding, "loader": lambda: [None for _ in loader.epoch(1)]}


def loaders(root: Path, batch: int, rendering: BoxRendering) -> dict[str, Callable[[], object]]:
    """An epoch of photographs by our loader, and the least that gives its images: decoded, scaled, mirrored, padded."""
    source = read_coco(root).splits["train"]
    loader = BoxTrainLoader(source, rendering, batch_size=batch, seed=0)

    batching = torchvision.models.detection.transform.GeneralizedRCNNTransform(1, 1, [0.0], [1.0]).batch_images

    def decoding() -> None:
        for step in range(loader.steps_per_epoch):
            images = []
            for index in range(step * batch, (step + 1) * batch):
                image = source.image(index)
                size, _ = rendering.drawn(tuple(image.shape[1:]), seed=0, view=0, index=index)
                scaled = torchvision.transforms.v2.functional.resize(image, list(size), antialias=True)
                images.append(torchvision.transforms.v2.functional.horizontal_flip(scaled).float().div_(255))
            batching(images)

    return {"decoding": decoding, "loader": lambda: [None for _ in loader.epoch(1)]}


def memory(task: str, name: str, base: str) -> dict[str, Any]:
    """The largest resident set of either in a process of its own, in MiB."""
    mib = {}
    for one in (name, base):
        command = [sys.executable, __file__, "--task", task, "--of", one]
        mib[one] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    return {"name": f"memory of {name}", "base": base, "mib": mib, "times_mib": mib[name] / mib[base]}


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| task | what | over | times, clock | range | times, processor |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        if "mib" in row:
            said = ", ".join(f"{name} {mib:,.0f} MiB" for name, mib in row["mib"].items())
            lines.append(f"| {row['task']} | {row['name']} | {row['base']} | {row['times_mib']:.2f} | {said} | |")
            continue
        low, high = row["range_wall"]
        lines.append(
            f"| {row['task']} | {row['name']} | {row['base']} | {row['times_wall']:.2f} | {low:.2f} to {high:.2f} | "
            f"{row['times_processor']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
