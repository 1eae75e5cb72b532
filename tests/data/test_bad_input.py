"""Files as people have them: damaged, mislabelled, unreadable, looping, of every colour mode."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.images import jpeg_bytes, pixels
from understudy.data import DataConfig, open_data
from understudy.data.sources.decoding import decoded
from understudy.utils.errors import UserError

WriteTree = Callable[..., Path]
ADOBE_MARKER = b"\xff\xee"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def without_adobe_marker(data: bytes) -> bytes:
    start = data.index(ADOBE_MARKER)
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


@pytest.mark.parametrize("change", [lambda data: data, without_adobe_marker])
def test_inverted_cmyk_jpeg_has_its_own_colours(change: Callable[[bytes], bytes]) -> None:
    orange = Image.new("RGB", (16, 16), (200, 100, 50)).convert("CMYK")  # Pillow writes it inverted, as Adobe does
    data = change(encoded(orange, "JPEG", quality=95))
    assert np.abs(decoded(data, "a.jpg")[:, 8, 8].numpy().astype(int) - (200, 100, 50)).max() <= 3


def test_ycck_jpeg_has_the_colours_that_pillow_reads() -> None:
    data = bytearray(encoded(Image.fromarray(pixels(0, 16, 16)).convert("CMYK"), "JPEG", quality=95))
    data[data.index(b"Adobe") + 11] = 2  # the same numbers, now called YCCK
    by_pillow = np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB")).astype(int)
    assert np.abs(decoded(bytes(data), "a.jpg").permute(1, 2, 0).numpy() - by_pillow).max() <= 3


def png_of_16_bits(rgb: tuple[int, int, int]) -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">HHH", *rgb)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


def test_16_bit_colours_keep_their_upper_8_bits() -> None:
    assert decoded(png_of_16_bits((255, 32768, 65535)), "a.png").flatten().tolist() == [0, 128, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animation_is_its_first_frame(kind: str) -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    data = encoded(
        red, kind, save_all=True, append_images=[blue], duration=100, **{"lossless": True} if kind == "WEBP" else {}
    )
    assert decoded(data, "a").float().mean((1, 2)).tolist() == [255, 0, 0]


def test_skipped_files_are_named_with_what_is_the_matter(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 3, "val/cat": 1})
    (root / "train/cat/empty.jpg").write_bytes(b"")
    (root / "train/cat/phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (root / "train/cat/loop.jpg").symlink_to("loop.jpg")
    (root / "train/cat/gone.jpg").symlink_to("nowhere.jpg")
    data = open_data(DataConfig(root=str(root)))
    assert len(data.train) == 3
    assert data.notes[0] == (
        "4 files are no images: train/cat/empty.jpg, train/cat/gone.jpg (no such file or directory), "
        "train/cat/loop.jpg (too many levels of symbolic links), "
        "train/cat/phone.heic (HEIC, which Pillow does not read; convert it to JPEG) "
        "(skipped; `data.on_bad_image: stop` to refuse)"
    )


def test_folder_named_like_an_image_is_a_folder(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 2, "train/cat/more.jpg": 3, "train/cat/empty.png": 0, "val/cat": 1})
    assert len(open_data(DataConfig(root=str(root))).train) == 5


def test_links_in_a_circle_give_each_image_once(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat/deep": 2, "train/dog": 2, "val/cat": 1})
    (root / "train/cat/deep/up").symlink_to(root / "train/cat")
    (root / "train/cat/all").symlink_to(root / "train")
    (root / "train/dog/everything").symlink_to(root)
    assert open_data(DataConfig(root=str(root))).train.labels.tolist() == [0, 0, 1, 1]


def test_linked_folder_belongs_to_its_class(write_tree: WriteTree) -> None:
    root, other = write_tree({"train/cat": 1, "val/cat": 1}), write_tree({"photos": 2}, name="elsewhere")
    (root / "train/cat/linked").symlink_to(other / "photos")
    (root / "train/dog").symlink_to(other / "photos")
    assert open_data(DataConfig(root=str(root))).train.labels.tolist() == [0, 0, 0, 1, 1]


def test_names_that_are_no_utf8_can_be_printed_and_written(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 2, "val/cat": 1})
    try:
        os.rename(os.fsencode(root / "train/cat/1.jpg"), os.fsencode(root) + b"/train/cat/caf\xe9.jpg")
        os.mkdir(os.fsencode(root) + b"/train/fl\xfche")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (Path(os.fsdecode(os.fsencode(root) + b"/train/fl\xfche")) / "0.jpg").write_bytes(jpeg_bytes(50))
    (Path(os.fsdecode(os.fsencode(root) + b"/train/fl\xfche")) / os.fsdecode(b"\xff.jpg")).write_bytes(b"")
    data = open_data(DataConfig(root=str(root)))
    assert data.classes == ("cat", r"fl\xfche")
    assert data.train.name(1) == r"train/cat/caf\xe9.jpg"
    assert data.notes[0].startswith(r"1 file is no image: train/fl\xfche/\xff.jpg (skipped")
    json.dumps([*data.classes, *data.notes]).encode()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights that root has over every file."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_tree(write_tree: WriteTree) -> Iterator[Path]:
    """A tree that every user can reach; pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = Path(folder) / "pets"
        shutil.copytree(write_tree({"train/cat": 3, "train/dog": 2, "val/cat": 1}), root)
        yield root
        for path in root.rglob("*"):
            path.chmod(0o755)


def test_file_that_may_not_be_read_is_skipped_with_the_reason(public_tree: Path) -> None:
    (public_tree / "train/cat/1.jpg").chmod(0)
    with as_nobody():
        data = open_data(DataConfig(root=str(public_tree)))
    assert len(data.train) == 4
    assert data.notes[0].startswith("1 file is no image: train/cat/1.jpg (permission denied) (skipped")


def test_folder_that_may_not_be_read_is_refused(public_tree: Path) -> None:
    (public_tree / "train/dog").chmod(0)
    with (
        as_nobody(),
        pytest.raises(UserError, match=r"train/dog may not be read \(permission denied\); change its perm"),
    ):
        open_data(DataConfig(root=str(public_tree)))


def test_file_that_vanishes_is_an_unreadable_image(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 3, "val/cat": 1})
    source = open_data(DataConfig(root=str(root), cache=False)).train
    (root / "train/cat/1.jpg").unlink()
    with pytest.raises(UserError, match=r"train/cat/1\.jpg: No such file or directory"):
        source.image(1)
