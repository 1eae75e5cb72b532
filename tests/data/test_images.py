import io

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.images import jpeg_bytes, pixels
from understudy.data.sources.decoding import BadImageError, decoded, from_pil


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_jpeg_has_the_pixels_that_pil_reads() -> None:
    data = jpeg_bytes(0, (20, 30))
    by_pil = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    image = decoded(data, "a.jpg")
    assert image.shape == (3, 20, 30)
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - by_pil).max() <= 2  # two libraries' inverse DCT


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("RGBA", "PNG"), ("1", "PNG")]
)
def test_every_colour_mode_becomes_rgb(mode: str, kind: str) -> None:
    original = Image.fromarray(pixels(1, 16, 16)).convert(mode)
    image = decoded(encoded(original, kind), "a").permute(1, 2, 0).numpy().astype(int)
    assert image.shape == (16, 16, 3)
    assert np.abs(image - np.asarray(original.convert("RGB"))).mean() < 4


def test_palette_with_transparency_becomes_rgb(recwarn: pytest.WarningsRecorder) -> None:
    original = Image.fromarray(pixels(2, 16, 16)).quantize(16)
    original.info["transparency"] = b"\x00" * 16
    image = decoded(encoded(original, "PNG"), "a.png")
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(original.convert("RGBA").convert("RGB")))
    assert not recwarn.list


def test_16_bit_grey_keeps_its_upper_8_bits() -> None:
    grey = np.array([[0, 255, 256], [32768, 65280, 65535]], dtype=np.uint16)
    image = decoded(encoded(Image.fromarray(grey), "PNG"), "a.png")
    assert image.tolist() == [[[0, 0, 1], [128, 255, 255]]] * 3


def test_from_pil_gives_a_contiguous_uint8_tensor() -> None:
    image = from_pil(Image.fromarray(pixels(3, 5, 7)))
    assert (image.dtype, image.shape, image.is_contiguous()) == (torch.uint8, (3, 5, 7), True)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"hello", "cannot identify image file"),
        (jpeg_bytes(0, (64, 64))[:-200], "truncated|broken"),
        (encoded(Image.fromarray(pixels(0, 64, 64)), "PNG")[:400], "truncated|broken"),
        (encoded(Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)), "TIFF"), "floating-point numbers"),
    ],
)
def test_damaged_image_is_named_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=rf"^roses/a\.jpg: .*({reason})"):
        decoded(data, "roses/a.jpg")
