"""What users would run instead: the plain loop of the field's repositories, and torchdistill. Used by other benchmarks.

Both read CIFAR images as torchvision does (an array, a PIL image each, transforms in DataLoader workers), take the
same networks with the same first weights, and read loss and accuracy from the device at every step, as their published
loops do. Their workers live on between blocks, and no image is prepared while another contestant has its turn.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from understudy.data import TensorSource

__all__ = ["Job", "PilImages", "plain_block", "plain_distillation", "plain_moves", "torchdistill_block"]

TEMPERATURE, TASK_WEIGHT, DISTILL_WEIGHT = 4.0, 0.1, 0.9  # mdistiller engine/cfg.py, and KD's defaults here
LR, MOMENTUM, DELTA, WEIGHT_DECAY = 0.05, 0.9, 0.075, 5e-4
HOW_TO_INSTALL = (
    "torchdistill is left out, since it is not to be found here; `pip install --no-deps --target FOLDER torchdistill`, "
    "then PYTHONPATH=FOLDER (all else that it needs for this is there)"
)


@dataclass(frozen=True)
class Job:
    """What every contestant does in a block."""

    data: Dataset[Any]  # of (tensor, label), augmented and normalised
    teacher: nn.Module  # in evaluation mode
    student: nn.Module
    device: torch.device
    batch_size: int
    num_steps: int
    num_workers: int
    precision: str

    def loader_settings(self) -> dict[str, Any]:
        """Of a DataLoader."""
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,  # else they would be started for every block
            "pin_memory": self.device.type == "cuda",
        }

    def sampler_settings(self) -> dict[str, Any]:
        """Of a RandomSampler: a block's samples, other ones every time."""
        return {"num_samples": self.num_steps * self.batch_size}

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield


class PilImages(Dataset[Any]):
    """Images as torchvision's CIFAR10 holds and gives them, augmented as the field does it."""

    def __init__(self, source: TensorSource, mean: Any, std: Any) -> None:
        self.data: np.ndarray[Any, Any] = source.images.permute(0, 2, 3, 1).contiguous().numpy()  # (N,H,W,3)
        self.targets: list[int] = source.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(self.data.shape[1], padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def plain_block(job: Job, *, is_dot: bool) -> Callable[[], float]:
    """A block of the plain loop, which returns its mean loss."""
    loader = DataLoader(job.data, sampler=RandomSampler(job.data, **job.sampler_settings()), **job.loader_settings())
    move = plain_moves(job.student, is_dot=is_dot)

    def block() -> float:
        job.student.train()
        losses, right = [], []
        for loaded, loaded_labels in loader:
            images = loaded.to(job.device, non_blocking=True)
            labels = loaded_labels.to(job.device, non_blocking=True)
            with job.autocast():
                logits = job.student(images)
                with torch.no_grad():
                    teacher_logits = job.teacher(images)
            task = TASK_WEIGHT * F.cross_entropy(logits, labels)
            distill = plain_distillation(logits, teacher_logits)
            move(task, distill)
            losses.append((task + distill).item())
            right.append((logits.argmax(dim=1) == labels).float().mean().item())
        return sum(losses) / len(losses)

    return block


def plain_distillation(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KD with its weight."""
    student = F.log_softmax(logits / TEMPERATURE, dim=1)
    teacher = F.softmax(teacher_logits / TEMPERATURE, dim=1)
    return DISTILL_WEIGHT * F.kl_div(student, teacher, reduction="batchmean") * TEMPERATURE**2


def plain_moves(student: nn.Module, *, is_dot: bool) -> Callable[[Tensor, Tensor], None]:
    """What turns the two weighted losses into new weights."""
    return _plain_dot(student) if is_dot else _plain_joint(student)


def _plain_joint(student: nn.Module) -> Callable[[Tensor, Tensor], None]:
    optimizer = torch.optim.SGD(student.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)

    def move(task: Tensor, distill: Tensor) -> None:
        optimizer.zero_grad()
        (task + distill).backward()
        optimizer.step()

    return move


def _plain_dot(student: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """DOT's algorithm 1 as one writes it down: two backward calls, a loop over the parameters."""
    parameters = list(student.parameters())
    task_momenta, distill_momenta = ([torch.zeros_like(p) for p in parameters] for _ in range(2))

    def gradients(loss: Tensor, *, retains: bool) -> list[Tensor]:
        student.zero_grad()
        loss.backward(retain_graph=retains)
        return [p.grad.detach().clone() for p in parameters if p.grad is not None]

    def move(task: Tensor, distill: Tensor) -> None:
        found = gradients(task, retains=True), gradients(distill, retains=False)
        with torch.no_grad():
            rows = zip(parameters, task_momenta, distill_momenta, *found, strict=True)
            for parameter, task_momentum, distill_momentum, of_task, of_distill in rows:
                task_momentum.mul_(MOMENTUM - DELTA).add_(of_task.add(parameter, alpha=WEIGHT_DECAY))
                distill_momentum.mul_(MOMENTUM + DELTA).add_(of_distill)
                parameter.add_(task_momentum + distill_momentum, alpha=-LR)

    return move


def torchdistill_block(job: Job) -> Callable[[], float] | None:
    """A block of torchdistill's KD with the settings of its CIFAR-10 recipes; None where it is not installed."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # importing it prints its doctests' lines
            from torchdistill.core.distillation import get_distillation_box
            from torchdistill.misc.log import MetricLogger, SmoothedValue
    except ImportError:
        print(HOW_TO_INSTALL)
        return None
    box = get_distillation_box(
        job.teacher, job.student, {"train": job.data}, _torchdistill_settings(job), job.device, None, False, 1
    )

    def block() -> float:
        box.pre_epoch_process(epoch=0)
        meters = MetricLogger(delimiter="  ")
        meters.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
        for images, labels, further in meters.log_every(box.train_data_loader, 100, "Epoch: [0]"):
            images, labels = images.to(job.device), labels.to(job.device)
            with job.autocast():
                loss = box.forward_process(images, labels, further)
            box.post_forward_process(loss=loss)
            meters.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
        box.post_epoch_process()
        return float(meters.loss.global_avg)

    return block


def _torchdistill_settings(job: Job) -> dict[str, Any]:
    kd = {
        "student_module_path": ".",
        "student_module_io": "output",
        "teacher_module_path": ".",
        "teacher_module_io": "output",
        "temperature": TEMPERATURE,
        "alpha": TASK_WEIGHT,
        "beta": DISTILL_WEIGHT,
        "reduction": "batchmean",
    }
    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler, "kwargs": job.sampler_settings()},
            "kwargs": job.loader_settings(),
        },
        # Its recipes wrap both in (Distributed)DataParallel; on one device that would only cost it time.
        "teacher": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": {"lr": LR, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd}, "weight": 1.0}}},
        },
    }
