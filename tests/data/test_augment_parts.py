"""RandAugment, AutoAugment, colour jitter and erasing: timm's and torchvision's, on one or two sizes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from helpers.images import pixels
from understudy.data import CropFlip, DataConfig, ResizedCrop, RotateFlip
from understudy.data.augment.config import Augment
from understudy.data.augment.crops import Rendering, globally_seeded
from understudy.utils.errors import UserError

STRONG = "rand-m9-mstd0.5-inc1"
PLAIN = CropFlip(pad=0, flip=False)


def with_parts(**parts: object) -> CropFlip:
    return CropFlip(pad=0, flip=False, **parts)


def smooth_image(seed: int = 0, size: int = 64) -> Tensor:
    return torch.from_numpy(pixels(seed, size, size).copy()).permute(2, 0, 1).contiguous()


def shown(augment: Augment, seed: int, *, image: Tensor | None = None, teacher_size: int | None = None) -> list[Tensor]:
    image = smooth_image() if image is None else image
    with globally_seeded(seed):
        student, teacher = Rendering(augment, 32, teacher_size)(image)
    return [student] if teacher is None else [student, teacher]


def normalised(image: Tensor) -> Tensor:
    return (image - torch.tensor(IMAGENET_DEFAULT_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_DEFAULT_STD).view(
        3, 1, 1
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "random"])
@pytest.mark.parametrize("policy", [STRONG, "rand-m9-n3-p1-tweights", "original-mstd0.5", "3a"])
def test_policy_is_the_one_of_timms_create_transform(policy: str, interpolation: str) -> None:
    field = "rand_augment" if policy.startswith("rand") else "auto_augment"
    *_, reference = (
        step
        for step in create_transform(
            32, is_training=True, auto_augment=policy, interpolation=interpolation, color_jitter=None
        ).transforms
        if type(step).__name__ in ("RandAugment", "AutoAugment")
    )
    image = smooth_image(size=32)
    for seed in range(10):
        (ours,) = shown(with_parts(**{field: policy, "interpolation": interpolation}), seed, image=image)
        with globally_seeded(seed):
            if interpolation == "random":
                random.choice("ab")  # one of two for the scaling, drawn before
            theirs = transforms.pil_to_tensor(reference(transforms.to_pil_image(image)))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "parts",
    [{"rand_augment": STRONG}, {"auto_augment": "v0"}, {"color_jitter": 0.4}, {"interpolation": "random"}],
    ids=str,
)
def test_teacher_at_another_size_sees_what_the_student_sees(parts: dict[str, object]) -> None:
    nearest_other, own = [], []
    previous = None
    for seed in range(20):
        small, large = shown(with_parts(**parts), seed, teacher_size=64)
        assert (small.shape, large.shape) == ((3, 32, 32), (3, 64, 64))
        halved = F.avg_pool2d(large.float(), 2)
        own.append((halved - small).abs().mean().item())
        if previous is not None:
            nearest_other.append((halved - previous).abs().mean().item())
        previous = small.float()
    assert float(np.mean(own)) < 8  # of 255: what is turned and posterised does not survive halving exactly
    if "interpolation" not in parts:  # which changes little
        assert float(np.mean(own)) < 0.25 * float(np.mean(nearest_other))


@pytest.mark.parametrize(
    "augment",
    [
        with_parts(rand_augment=STRONG, color_jitter=0.4, erasing=0.5),
        ResizedCrop(rand_augment=STRONG, interpolation="random", erasing=0.5),
        RotateFlip(auto_augment="original", erasing=0.5),
    ],
    ids=lambda augment: augment.name,
)
def test_students_pixels_do_not_depend_on_the_teachers_size(augment: Augment) -> None:
    image = smooth_image(size=64)
    for seed in range(10):
        alone, beside = shown(augment, seed, image=image), shown(augment, seed, image=image, teacher_size=48)
        assert torch.equal(alone[0], beside[0])


def test_image_that_loses_all_its_bits_is_black_instead_of_an_error() -> None:
    # Pillow 13 refuses to keep 0 bits, which timm's "v0" and the upper end of "mstd" ask for.
    images = [shown(with_parts(auto_augment="v0"), seed)[0] for seed in range(200)]
    assert 0 < sum(int(image.max()) == 0 for image in images) < 20


def test_erased_rectangle_is_standard_noise_after_the_models_normalisation() -> None:
    noise = []
    for seed in range(60):
        (plain,), (erased,) = shown(PLAIN, seed), shown(with_parts(erasing=1.0), seed)
        assert erased.dtype == torch.float32
        changed = (erased != plain / 255).all(dim=0)
        rows, columns = changed.any(dim=1).nonzero().flatten(), changed.any(dim=0).nonzero().flatten()
        box = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.all()
        assert 0.015 < box.numel() / 32**2 < 0.37
        noise.append(normalised(erased)[:, changed].flatten())
    values = torch.cat(noise)
    assert abs(values.mean().item()) < 0.03
    assert abs(values.std().item() - 1) < 0.03
    assert values.abs().max() > 3


def test_erasing_happens_as_often_as_it_says() -> None:
    (plain,) = shown(PLAIN, 0)
    erased = sum(not torch.equal(shown(with_parts(erasing=0.25), seed)[0], plain / 255) for seed in range(400))
    assert 70 < erased < 130


def test_constant_erasing_paints_the_mean_colour() -> None:
    (erased,) = shown(with_parts(erasing=1.0, erase_mode="const"), 0)
    (plain,) = shown(PLAIN, 0)
    changed = (erased != plain / 255).all(dim=0)
    assert changed.any()
    assert torch.allclose(normalised(erased)[:, changed], torch.zeros(()), atol=1e-6)


def test_teacher_has_the_same_rectangle_and_noise_erased() -> None:
    for seed in range(10):
        small, large = shown(with_parts(erasing=1.0), seed, teacher_size=64)
        (plain,) = shown(PLAIN, seed)
        changed = (small != plain / 255).all(dim=0)
        doubled = small.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        where = changed.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
        assert torch.equal(large[:, where], doubled[:, where])


def test_colour_jitter_keeps_shapes_and_changes_colours() -> None:
    (plain,) = shown(PLAIN, 0)
    means = torch.stack([shown(with_parts(color_jitter=0.4), seed)[0].float().mean((1, 2)) for seed in range(50)])
    assert means.std(dim=0).min() > 5
    assert (means.mean(dim=0) - plain.float().mean((1, 2))).abs().max() < 15


def test_random_interpolation_takes_both() -> None:
    image = smooth_image(size=60)
    bilinear, bicubic = (shown(with_parts(interpolation=kind), 0, image=image)[0] for kind in ("bilinear", "bicubic"))
    assert not torch.equal(bilinear, bicubic)
    met = {
        "bilinear" if torch.equal(one, bilinear) else "bicubic" if torch.equal(one, bicubic) else "neither"
        for one in (shown(with_parts(interpolation="random"), seed, image=image)[0] for seed in range(20))
    }
    assert met == {"bilinear", "bicubic"}


def test_parts_that_are_off_are_not_written() -> None:
    assert CropFlip().model_dump() == {"name": "crop_flip", "pad": 4, "flip": True}
    strong = ResizedCrop(rand_augment=STRONG, erasing=0.25)
    assert strong.model_dump(exclude={"name", "scale", "ratio"}) == {
        "flip": True,
        "rand_augment": STRONG,
        "erasing": 0.25,
    }
    config = DataConfig(root="x", augment=strong)
    assert DataConfig(**config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rand_augment": "rand-m9-inc"}, r"augment\.rand_augment\s+'rand-m9-inc' is no RandAugment of timm's: 'inc'"),
        (
            {"rand_augment": "m9"},
            r"augment\.rand_augment\s+'m9' is no RandAugment of timm's: 'm9'; it is written rand-",
        ),
        ({"rand_augment": "rand-tnone"}, r"no RandAugment of timm's: 'tnone'"),
        ({"auto_augment": "v1"}, r"'v1' is no AutoAugment of timm's: 'v1'; it is one of original"),
        (
            {"auto_augment": "v0", "rand_augment": "rand-m9"},
            r"augment\.auto_augment\s+auto_augment and rand_augment take each",
        ),
        ({"erasing": 1.5}, r"augment\.erasing\s+input should be less than or equal to 1, got 1\.5"),
        ({"erase_mode": "white"}, r"augment\.erase_mode\s+input should be 'pixel', 'rand' or 'const', got 'white'"),
        ({"eraisng": 0.2}, r"augment\.eraisng\s+unknown; did you mean erasing"),
    ],
)
def test_settings_that_nothing_understands_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataConfig.read({"root": "x", "augment": {"name": "resized_crop", **settings}}, what="data")
