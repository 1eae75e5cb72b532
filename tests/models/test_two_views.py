"""A teacher and a student of other sizes and normalisations see the same crop of the same decoded image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from understudy import Classification, DataConfig, LiveTeacher, Recipe, StudentSpec, create_model, trainer
from understudy.core.batch import Batch
from understudy.data import train_loader
from understudy.methods.kd import KD
from understudy.models import Network, network_of
from understudy.runs.components import open_components

STUDENT = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
TEACHER = {"mean": (0.1, 0.2, 0.6), "std": (0.5, 0.4, 0.8)}


class Ramps:
    """Large images whose red says how far right a pixel is, green how far down, blue which image; counts decoding."""

    def __init__(self, num_images: int) -> None:
        self.labels = torch.arange(num_images) % 3
        self.decoded: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> Tensor:
        """(3,90,120) uint8."""
        self.decoded.append(i)
        right = torch.linspace(0, 255, 120).expand(90, 120)
        down = torch.linspace(0, 255, 90)[:, None].expand(90, 120)
        return torch.stack([right, down, torch.full((90, 120), 20.0 * i)]).byte()

    def name(self, i: int) -> str:
        """For messages."""
        return f"ramp {i}"


class Recorder(nn.Module):
    """A linear classifier that keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, 3)
        self.given: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.given.append(images.detach())
        return self.classifier(images.mean(dim=(2, 3)))


def unnormalised(images: Tensor, network: Network) -> Tensor:
    assert network.prepare.mean is not None
    assert network.prepare.std is not None
    return images * network.prepare.std + network.prepare.mean


@pytest.mark.parametrize("workers", [0, 1])
def test_both_see_one_crop_of_one_decoded_image_each_at_its_size_and_normalisation(workers: int) -> None:
    source = Ramps(9)
    student, teacher = (
        network_of(Recorder(), num_classes=3, **STUDENT),
        network_of(Recorder(), num_classes=3, **TEACHER),
    )
    config = DataConfig(root="python", batch_size=3, augment={"name": "resized_crop"}, workers=workers)
    loader = train_loader(source, config, seed=0, image_size=24, teacher_size=40)
    watched = LiveTeacher(teacher.module, prepare=teacher.prepare)
    loop = trainer(
        task=Classification(3),
        students=[StudentSpec(student.module, method=KD.Config(), prepare=student.prepare)],
        sample=Batch(torch.zeros(2, 3, 24, 24), torch.zeros(2).long(), teacher_images=torch.zeros(2, 3, 40, 40)),
        teacher=watched,
    )
    looking = watched.model.module  # a second network on the same tensors, so that the first keeps its modes
    assert isinstance(looking, Recorder)
    student.module.given.clear()  # of the dry pass
    looking.given.clear()
    loop.fit(loader, epochs=1)

    small = unnormalised(torch.cat(student.module.given), student)
    large = unnormalised(torch.cat(looking.given), teacher)
    assert (small.shape, large.shape) == ((9, 3, 24, 24), (9, 3, 40, 40))
    same_size = F.interpolate(large, size=(24, 24), mode="bilinear", antialias=True)
    apart = (small - same_size).abs().mean(dim=(1, 2, 3))
    assert apart.max() < 0.01  # two ways of scaling one crop down
    other_crops = (small[:, :2] - same_size[:, :2].roll(1, dims=0)).abs().mean(dim=(1, 2, 3))
    assert other_crops.min() > 0.02  # other crops do show in these images
    numbers = (small[:, 2].mean(dim=(1, 2)) * 255 / 20).round().long()
    assert sorted(numbers.tolist()) == list(range(9))
    if workers == 0:  # a worker counts in its own process
        assert sorted(source.decoded) == list(range(9))


def write_images(root: Path) -> Path:
    for split, count in (("train", 3), ("val", 1)):
        for number, label in enumerate("ab"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (90, 70), (40 * i, 80 * number, 200)).save(root / split / label / f"{i}.png")
    return root


def test_a_recipe_gives_each_network_the_size_and_normalisation_that_it_prefers(tmp_path: Path) -> None:
    recipe = Recipe.read(
        {
            "data": {"root": str(write_images(tmp_path / "pictures")), "batch_size": 3, "workers": 0},
            "teacher": {"model": "timm:test_vit", "weights": "none", "allow_weak": True},
            "student": {"model": "cifar:resnet8", "kwargs": {"width": 0.25}, "weights": "none"},
            "method": "kd",
            "epochs": 1,
            "device": "cpu",
        },
        what="two sizes",
    )
    parts = open_components(recipe, allow_code=False, say=lambda text: None)
    batch = next(iter(parts.train_loader(0).epoch(1)))
    assert batch.teacher_images is not None
    assert (batch.images.shape, batch.teacher_images.shape) == ((3, 3, 32, 32), (3, 3, 160, 160))
    assert parts.teacher_network is not None
    assert parts.teacher_network.mean == [0.5, 0.5, 0.5]
    assert parts.student_network.mean != [0.5, 0.5, 0.5]
    assert parts.teacher is not None
    logits = parts.teacher.observe(batch).output
    own = create_model("timm:test_vit", num_classes=2, weights="none")
    own.module.load_state_dict(parts.teacher_network.module.state_dict())
    with torch.no_grad():
        assert torch.allclose(logits, own.module.eval()((batch.teacher_images - 0.5) / 0.5), atol=1e-5)
