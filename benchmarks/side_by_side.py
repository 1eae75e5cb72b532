"""Several students of one architecture on the same batch: one after the other, or as one batched network.

Ways, each a whole step of KD with the teacher's logits at hand (forward, backward, fused SGD of every student), on
ready tensors: one after the other; torch.func.stack_module_state with vmap over the students; grouped convolutions,
students side by side in the channels. All give each student the same gradients up to rounding, which is checked first.
On CUDA each way is a CUDA graph, as understudy's steps are. They take turns in one process.

    python benchmarks/side_by_side.py [--student resnet8x4] [--students 5] [--turns 7] [--steps 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from measuring import add_common_arguments, device_of, in_turns, report, summary
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

import understudy as us
from understudy.core.precision import Precision, autocast

__all__ = ["blocks"]

CLASSES, SIZE, TEMPERATURE = 100, 32, 4.0

Step = Callable[[], Tensor]  # takes a step of all students; the sum of their losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--student", default="resnet20", help="a CIFAR network")
    parser.add_argument("--students", type=int, default=5, help="how many of them")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="of every contestant in a turn")
    arguments = parser.parse_args()
    device = device_of(arguments)
    made = blocks(
        arguments.student, arguments.students, device, arguments.batch, arguments.steps, precision=arguments.precision
    )
    rows = summary(in_turns(made, arguments.turns, device, warmup=2), "one after the other")
    lines = [
        "| students | ms a step of all | times one after the other | range over turns | processor |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        low, high = row["range_wall"]
        lines.append(
            f"| {row['name']} | {1000 * row['wall_s'] / arguments.steps:.1f} | {row['times_wall']:.2f} | "
            f"{low:.2f} to {high:.2f} | {row['times_processor']:.2f} |"
        )
    settings = {name: value for name, value in vars(arguments).items() if isinstance(value, str | int)}
    report("\n".join(lines), {"rows": rows, **settings, "device": str(device)}, arguments.json)


def blocks(
    name: str, count: int, device: torch.device, batch: int, steps: int, *, precision: Precision = "float32"
) -> dict[str, Callable[[], object]]:
    """A block of steps for each way, once it is known that all give the same gradients."""
    drawn = torch.Generator(device).manual_seed(1)
    images = torch.rand(batch, 3, SIZE, SIZE, device=device, generator=drawn)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % CLASSES
    seen = torch.randn(batch, CLASSES, device=device, generator=drawn)

    def loss_of(logits: Tensor) -> Tensor:
        """Of (B,C) or (K,B,C) logits, a student each, added up."""
        rows = logits.float().flatten(0, -2)
        count = len(rows) // batch
        log_student, log_teacher = F.log_softmax(rows / TEMPERATURE, 1), F.log_softmax(seen / TEMPERATURE, 1)
        distill = F.kl_div(log_student, log_teacher.repeat(count, 1), reduction="sum", log_target=True)
        return 0.1 * F.cross_entropy(rows, labels.repeat(count)) * count + 0.9 * TEMPERATURE**2 * distill / batch

    def wide(forward: Callable[[], Tensor]) -> Tensor:
        with autocast(precision, device):
            return forward()

    ways = {
        "one after the other": one_after_the_other(students(name, count, device), images, loss_of, wide),
        "vmap": by_vmap(students(name, count, device), images, loss_of, wide),
        "grouped convolutions": grouped(students(name, count, device), images, loss_of, wide),
    }
    losses = [torch.stack([step() for _ in range(2)]) for step in ways.values()]  # the second shows the gradients
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=2e-2 if precision == "bfloat16" else 1e-3, atol=1e-3)
    return {way: repeated(captured(step) if device.type == "cuda" else step, steps) for way, step in ways.items()}


def students(name: str, count: int, device: torch.device) -> list[nn.Module]:
    """So many with different random weights, the same ones at each call."""
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        module = us.create_model(f"cifar:{name}", num_classes=CLASSES, weights="none").module
        made.append(module.to(device, memory_format=torch.channels_last).train())
    return made


def optimizer_of(parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(list(parameters), 0.05, 0.9, weight_decay=5e-4, fused=True)


def one_after_the_other(networks: Sequence[nn.Module], images: Tensor, loss_of: Any, wide: Any) -> Step:
    optimizers = [optimizer_of(list(network.parameters())) for network in networks]

    def step() -> Tensor:
        total = torch.zeros((), device=images.device)
        for network, optimizer in zip(networks, optimizers, strict=True):
            optimizer.zero_grad()
            loss = loss_of(wide(lambda network=network: network(images)))
            loss.backward()
            optimizer.step()
            total = total + loss.detach()
        return total

    return step


def by_vmap(networks: Sequence[nn.Module], images: Tensor, loss_of: Any, wide: Any) -> Step:
    parameters, buffers = stack_module_state(list(networks))  # type: ignore[arg-type]
    empty = copy.deepcopy(networks[0]).to("meta")
    optimizer = optimizer_of(list(parameters.values()))

    def one(weights: dict[str, Tensor], statistics: dict[str, Tensor]) -> Tensor:
        logits: Tensor = functional_call(empty, (weights, statistics), (images,))
        return logits

    def step() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = loss_of(wide(lambda: vmap(one)(parameters, buffers)))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


class SideBySide(nn.Module):
    """Linear layers of several students, whose inputs lie side by side in the channels: (B,K*D) to (B,K*C)."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))  # (K,C,D)
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))  # (K,C)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.unflatten(1, (len(self.weight), -1)).transpose(0, 1)  # (K,B,D)
        return torch.baddbmm(self.bias[:, None], rows, self.weight.mT).transpose(0, 1).flatten(1)


def grouped(networks: Sequence[nn.Module], images: Tensor, loss_of: Any, wide: Any) -> Step:
    count = len(networks)
    joined = copy.deepcopy(networks[0])
    for path, layer in list(joined.named_modules()):
        layers = [network.get_submodule(path) for network in networks]
        if (other := _joined(layer, layers)) is not None:
            parent, _, last = path.rpartition(".")
            setattr(joined.get_submodule(parent), last, other)
    joined.to(images.device, memory_format=torch.channels_last).train()
    optimizer = optimizer_of(list(joined.parameters()))
    repeated_images = images.repeat(1, count, 1, 1).contiguous(memory_format=torch.channels_last)

    def step() -> Tensor:
        optimizer.zero_grad()
        logits = wide(lambda: joined(repeated_images)).unflatten(1, (count, CLASSES)).transpose(0, 1)
        loss: Tensor = loss_of(logits)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _joined(layer: nn.Module, layers: Sequence[Any]) -> nn.Module | None:
    """The layers of all students as one; None of what needs no change."""
    count = len(layers)
    if isinstance(layer, nn.Linear):
        return SideBySide(layers)
    if isinstance(layer, nn.Conv2d):
        made: nn.Module = nn.Conv2d(
            count * layer.in_channels,
            count * layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            groups=count,
            bias=layer.bias is not None,
        )
    elif isinstance(layer, nn.BatchNorm2d):
        made = nn.BatchNorm2d(count * layer.num_features)
    else:
        return None
    states = [one.state_dict() for one in layers]
    made.load_state_dict(
        {key: torch.cat([state[key] for state in states]) if value.ndim else value for key, value in states[0].items()}
    )
    return made


def captured(step: Step) -> Step:
    """The step as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


def repeated(step: Step, times: int) -> Callable[[], object]:
    def block() -> None:
        for _ in range(times):
            step()

    return block


if __name__ == "__main__":
    main()
