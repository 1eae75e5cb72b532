"""What the benchmarks hold understudy's step against: the bare sum of its arithmetic, in plain PyTorch.

On ready tensors: teacher forward, student forward, one backward pass (or DOT's two), and a fused SGD step for each; no
data, no augmentation, no measures, no checks, no random states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from ours import Blocks
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import understudy as us
from understudy.core.precision import Precision, autocast
from understudy.data import CropFlip, DataConfig, TensorSource, train_loader
from understudy.training.build import BuildContext, build_student, tap_teacher

__all__ = [
    "NUM_CLASSES",
    "PAIRS",
    "Gradients",
    "bare_step",
    "batched_vjp",
    "flops_of",
    "matmul_rate",
    "one_pass",
    "our_block",
    "two_forwards",
    "two_passes",
]

NUM_CLASSES, IMAGE_SIZE, NUM_TRAIN, TEMPERATURE = 100, 32, 50_000, 4.0
PAIRS = {"resnet56-resnet20": ("resnet56", "resnet20"), "resnet32x4-resnet8x4": ("resnet32x4", "resnet8x4")}

# From a forward pass that can be repeated and its two losses to the gradients of each, or to that of their sum.
Forward = Callable[[], tuple[Tensor, Tensor, Tensor]]  # logits, 0.1 task loss, 0.9 distill loss
Gradients = Callable[[Forward, Sequence[Tensor]], list[Sequence[Tensor]]]


def networks(pair: str, device: torch.device, *, channels_last: bool = True) -> tuple[Any, Any]:
    """Teacher and student, always with the same random weights."""
    torch.manual_seed(0)
    made = [
        us.create_model(f"cifar:{name}", num_classes=NUM_CLASSES, weights="none", mean=[0.5] * 3, std=[0.25] * 3)
        for name in PAIRS[pair]
    ]
    for network in made:
        network.prepare.to(device)
        network.module.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return made[0], made[1]


def one_pass(forward: Forward, parameters: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    _, task, distill = forward()
    return [torch.autograd.grad(task + distill, parameters)]


def two_passes(forward: Forward, parameters: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    _, task, distill = forward()
    return [torch.autograd.grad(task, parameters, retain_graph=True), torch.autograd.grad(distill, parameters)]


def two_forwards(forward: Forward, parameters: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    return [torch.autograd.grad(forward()[place], parameters) for place in (1, 2)]


def batched_vjp(forward: Forward, parameters: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """Both losses' gradients at the logits as one batch of vectors: torch.vmap over the backward pass."""
    logits, task, distill = forward()
    ends = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (task, distill)]
    found = torch.autograd.grad(logits, parameters, torch.stack(ends), is_grads_batched=True)
    return [[gradient[place] for gradient in found] for place in (0, 1)]


def bare_step(
    pair: str,
    device: torch.device,
    *,
    batch: int,
    precision: Precision = "float32",
    gradients: Gradients = one_pass,
    channels_last: bool = True,
    compile_mode: str | None = None,
    looks: bool = True,
) -> Callable[[], None]:
    """One step, as a function.

    Args:
        compile_mode: torch.compile's, for both networks; None leaves them eager.
        looks: whether the teacher looks at every step; False: it looks once, beforehand.
    """
    found = networks(pair, device, channels_last=channels_last)
    teacher, student = found[0].module.eval(), found[1].module.train()
    parameters = list(student.parameters())
    optimizers = [torch.optim.SGD(parameters, 0.05, 0.9, weight_decay=5e-4, fused=True) for _ in range(2)]
    drawn = torch.Generator(device).manual_seed(1)
    images = torch.rand(batch, 3, IMAGE_SIZE, IMAGE_SIZE, device=device, generator=drawn)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % NUM_CLASSES
    if compile_mode is not None:
        torch._functorch.config.donated_buffer = False
        teacher, student = (torch.compile(network, mode=compile_mode) for network in (teacher, student))

    def look() -> Tensor:
        with autocast(precision, device), torch.no_grad():
            return teacher(images)

    known = None if looks else look()

    def step() -> None:
        if compile_mode is not None:
            torch.compiler.cudagraph_mark_step_begin()
        seen = look() if known is None else known
        for optimizer, found in zip(optimizers, gradients(lambda: forward(seen), parameters), strict=False):
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient
            optimizer.step()

    def forward(seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with autocast(precision, device):
            logits = student(images)
        log_student, log_teacher = (F.log_softmax(z.float() / TEMPERATURE, dim=1) for z in (logits, seen))
        distill = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * TEMPERATURE**2
        return logits, 0.1 * F.cross_entropy(logits.float(), labels), 0.9 * distill

    return step


def our_block(
    pair: str,
    device: torch.device,
    *,
    batch: int,
    num_steps: int,
    precision: Precision = "float32",
    dot: bool = False,
    folds: bool = True,
    compiles: bool = False,
    channels_last: bool = True,
) -> Callable[[], None]:
    """`num_steps` whole steps of KD as a function: understudy's Trainer with its loader, augmentation and measures."""
    teacher_network, student_network = networks(pair, device, channels_last=channels_last)
    config = us.methods.KD.Config()
    teacher = us.LiveTeacher(
        teacher_network.module, prepare=teacher_network.prepare, fold_batch_norm=folds, compile=compiles
    )
    tap_teacher(teacher, [config])
    spec = us.StudentSpec(
        student_network.module,
        method=config,
        update=us.DOT.Config() if dot else us.Joint.Config(),
        prepare=student_network.prepare,
        precision=precision,
        compile=compiles,
    )
    drawn = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (NUM_TRAIN, 3, IMAGE_SIZE, IMAGE_SIZE), generator=drawn, dtype=torch.uint8)
    labels = torch.randint(0, NUM_CLASSES, (NUM_TRAIN,), generator=drawn)
    around = BuildContext(
        task=us.Classification(NUM_CLASSES),
        num_classes=NUM_CLASSES,
        sample=torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE, device=device),
        teacher=teacher,
        train_labels=labels,
    )
    trainer = us.Trainer([build_student(spec, around)], teacher=teacher, device=device)
    settings = DataConfig(root="in memory", batch_size=batch, augment=CropFlip())
    loader = train_loader(TensorSource(images, labels), settings, seed=0, image_size=IMAGE_SIZE, device=device)
    blocks = Blocks(loader, num_steps)
    return lambda: trainer.fit(blocks, epochs=trainer.epoch)


def flops_of(step: Callable[[], None]) -> int:
    """Of its matrix products and convolutions: two for each multiplication with its addition."""
    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return int(counter.get_total_flops())


def matmul_rate(device: torch.device, precision: str, timed: Callable[..., Any]) -> float:
    """Highest rate of a large matrix product on this GPU, in FLOP/s."""
    side = 8192
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return float(max(2 * side**3 / timed(lambda: one @ other, device).wall for _ in range(10)))


def repeated(step: Callable[[], None], times: int) -> Callable[[], None]:
    """A function that takes the step so many times."""

    def block() -> None:
        for _ in range(times):
            step()

    return block
