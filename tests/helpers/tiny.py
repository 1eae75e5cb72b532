"""A network, a teacher and data of three classes, as a person hands them to the Python API."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset


def tiny_network(width: int, num_classes: int = 3) -> nn.Sequential:
    """(B,3,H,W) to (B,num_classes), from seed 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * width, num_classes),
        )


def tiny_data(num_images: int = 48) -> TensorDataset:
    """(3,8,8) float images of three classes, each brightest in its own channel."""
    labels = torch.arange(num_images) % 3
    images = torch.rand(num_images, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.2
    images[torch.arange(num_images), labels] += 0.6
    return TensorDataset(images, labels)


def tiny_teacher() -> nn.Sequential:
    """A network that knows `tiny_data` by heart."""
    teacher, (images, labels) = tiny_network(16), tiny_data().tensors
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(teacher(images), labels).backward()
        optimizer.step()
    assert (teacher.eval()(images).argmax(1) == labels).all()
    return teacher
