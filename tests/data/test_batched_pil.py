"""Pillow's operations on whole batches, held against Pillow itself on each image: the same pixels."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from understudy.data.augment import batched_pil as ours

FILL = (124, 116, 104)
# Elsewhere Pillow may be built with fused multiply-adds, which round otherwise now and then.
ATOL = 0 if platform.machine().lower() in ("x86_64", "amd64") else 1
SIZES = [(32, 32), (9, 14), (2, 3)]


@pytest.fixture(params=SIZES, ids=str)
def images(request: pytest.FixtureRequest) -> Tensor:
    """(9,3,H,W): noise, smooth ones of few values, two values, one value."""
    height, width = request.param
    drawn = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (3, 3, height, width), generator=drawn, dtype=torch.uint8)
    coarse = torch.rand(4, 3, 3, 3, generator=drawn)
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear").mul(170).add(30).byte()
    two, one = (torch.full((1, 3, height, width), value, dtype=torch.uint8) for value in (77, 9))
    two[:, :, : height // 2] = 78
    return torch.cat([noise, smooth, two, one])


def arguments(images: Tensor, low: float, high: float) -> Tensor:
    drawn = torch.rand(len(images), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = low + (high - low) * drawn
    found[0] = (low + high) / 2  # no change in most cases
    return found


def assert_pillows(found: Tensor, images: Tensor, theirs: Callable[[Image.Image, int], Image.Image]) -> None:
    wanted = [transforms.pil_to_tensor(theirs(transforms.to_pil_image(one), i)) for i, one in enumerate(images)]
    assert found.dtype == torch.uint8
    torch.testing.assert_close(found, torch.stack(wanted), rtol=0, atol=ATOL)


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_what_goes_by_each_channels_values_is_pillows(images: Tensor, name: str) -> None:
    tables = {"autocontrast": ours.stretching, "equalize": ours.equalizing}[name](images)
    assert_pillows(ours.looked_up(images, tables), images, lambda image, i: getattr(ImageOps, name)(image))


def contrasted(images: Tensor, factors: Tensor) -> Tensor:
    return ours.looked_up(images, ours.contrasting(images, factors))


@pytest.mark.parametrize("name", ["Color", "Contrast", "Sharpness"])
def test_enhancers_are_pillows(images: Tensor, name: str) -> None:
    factors = arguments(images, 0.0, 2.0)
    change = {"Color": ours.coloured, "Contrast": contrasted, "Sharpness": ours.sharpened}[name]
    assert_pillows(
        change(images, factors), images, lambda image, i: getattr(ImageEnhance, name)(image).enhance(float(factors[i]))
    )


@pytest.mark.parametrize("is_cubic", [False, True], ids=["bilinear", "bicubic"])
def test_turned_images_are_pillows(images: Tensor, is_cubic: bool) -> None:
    degrees = arguments(images, -30, 30)
    resample = Image.Resampling.BICUBIC if is_cubic else Image.Resampling.BILINEAR
    matrices = ours.rotations(degrees, *images.shape[-2:])
    found = ours.affine(images, matrices, torch.tensor(FILL, dtype=torch.uint8), is_cubic=is_cubic)
    assert_pillows(found, images, lambda image, i: image.rotate(float(degrees[i]), resample=resample, fillcolor=FILL))
    assert torch.equal(found[0], images[0])  # by 0 degrees


@pytest.mark.parametrize("is_cubic", [False, True], ids=["bilinear", "bicubic"])
@pytest.mark.parametrize("place", [1, 2, 3, 5])
def test_sheared_and_shifted_images_are_pillows(images: Tensor, place: int, is_cubic: bool) -> None:
    matrices = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64).repeat(len(images), 1)
    most = 0.3 if place in (1, 3) else 20.0  # beyond the small ones altogether
    matrices[:, place] = arguments(images, -most, most)
    resample = Image.Resampling.BICUBIC if is_cubic else Image.Resampling.BILINEAR
    found = ours.affine(images, matrices, torch.tensor(FILL, dtype=torch.uint8), is_cubic=is_cubic)

    def theirs(image: Image.Image, i: int) -> Image.Image:
        matrix = tuple(matrices[i].tolist())
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=FILL)

    assert_pillows(found, images, theirs)
    lines = ours.affine(
        images, matrices, torch.tensor(FILL, dtype=torch.uint8), is_cubic=is_cubic, along="x" if place < 3 else "y"
    )
    assert torch.equal(lines, found)
