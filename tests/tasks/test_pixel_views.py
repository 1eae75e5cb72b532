"""Windows that slide over an image, against a plain loop, and the same looks in prediction as in evaluation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import understudy as us
from understudy import UserError
from understudy.core.batch import Batch
from understudy.runs.classifiers import open_classifier
from understudy.tasks import pixel_views
from understudy.tasks.pixel_views import at_size, classes_at_size, slid_logits, window_places
from understudy.tasks.segmentation import Segmentation, SegmentationConfig

CPU = torch.device("cpu")


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 5, stride=2, padding=2), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 3, padding=1)
    ).requires_grad_(False)


@pytest.mark.parametrize("align_corners", [False, True])
def test_classes_of_a_huge_image_are_found_a_few_at_a_time(align_corners: bool, monkeypatch: Any) -> None:
    logits = torch.randn(2, 7, 5, 6, generator=torch.Generator().manual_seed(0))
    logits[:, 4] = logits[:, 1]  # of two that are alike the first counts
    expected = at_size(logits, (20, 31), align_corners=align_corners).argmax(dim=1)
    for most in (2 * 20 * 31 * 3, 1):  # three classes at a time, and one
        monkeypatch.setattr(pixel_views, "MOST_AT_ONCE", most)
        assert torch.equal(classes_at_size(logits, (20, 31), align_corners=align_corners), expected)


def by_a_plain_loop(look: torch.nn.Module, image: Tensor, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """(C,H,W): every pixel asks every window that it lies in."""
    height, width = image.shape[1:]
    total, count = torch.zeros(3, height, width), torch.zeros(height, width)
    tops = sorted({min(top, max(height - window[0], 0)) for top in range(0, height, stride[0])})
    lefts = sorted({min(left, max(width - window[1], 0)) for left in range(0, width, stride[1])})
    for top in tops:
        for left in lefts:
            part = image[None, :, top : top + window[0], left : left + window[1]]
            said = F.interpolate(look(part), part.shape[2:], mode="bilinear")[0]
            for row in range(part.shape[2]):
                for column in range(part.shape[3]):
                    total[:, top + row, left + column] += said[:, row, column]
                    count[top + row, left + column] += 1
    return total / count


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [((13, 20), (8, 8), (5, 6)), ((16, 16), (8, 16), (4, 16)), ((6, 19), (8, 7), (8, 3)), ((5, 5), (9, 9), (9, 9))],
)
def test_windows_give_what_a_plain_loop_over_pixels_gives(
    size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]
) -> None:
    look, images = network(), torch.rand(2, 3, *size)
    found = slid_logits(look, images, window=window, stride=stride)
    for number in range(2):
        assert found[number].allclose(by_a_plain_loop(look, images[number], window, stride), atol=1e-6)


def test_the_last_window_ends_where_the_image_does() -> None:
    assert list(window_places(1024, 512, 341)) == [0, 341, 512]
    assert list(window_places(512, 512, 341)) == list(window_places(100, 512, 341)) == [0]


def test_windows_slide_over_each_scale_and_its_mirror() -> None:
    look, images = network(), torch.rand(1, 3, 12, 12)
    settings = SegmentationConfig(window=8, stride=4, eval_scales=(1.0, 1.5), eval_mirrored=True)
    large = F.interpolate(images, (18, 18), mode="bilinear")
    looks = []
    for shown in (large, images):
        for turns in (False, True):
            one = slid_logits(look, shown.flip(-1) if turns else shown, window=8, stride=4)
            looks.append(F.interpolate((one.flip(-1) if turns else one).softmax(1), (18, 18), mode="bilinear"))
    assert settings.seen(look, images).exp().allclose(sum(looks) / 4, atol=1e-6)


def test_scores_are_those_of_the_slid_logits() -> None:
    look, images = network(), torch.rand(2, 3, 12, 20)
    batch = Batch(images, torch.randint(0, 3, (2, 12, 20)))
    task = Segmentation(3, settings=SegmentationConfig(window=(8, 10), stride=(4, 5)))
    found = task.evaluate({"it": lambda batch: look(batch.images)}, [batch], CPU)["it"]
    slid = slid_logits(look, images, window=(8, 10), stride=(4, 5))
    assert torch.equal(found.counts[0], _counts_of(slid[:1], batch.targets[:1]))
    assert found.scores["loss"] == pytest.approx(F.cross_entropy(slid, batch.targets).item(), rel=1e-5)


def _counts_of(logits: Tensor, labels: Tensor) -> Tensor:
    said = logits.argmax(1)
    rows = [[((said == c) & (labels == c)).sum(), (said == c).sum(), (labels == c).sum()] for c in range(3)]
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"stride": 4}, "stride: is of windows that slide over the image; set window"),
        ({"window": [8, 4], "stride": 6}, "stride: 6 is more than the window's"),
        ({"window": 0}, "1 to 8,192 pixels a side"),
    ],
)
def test_windows_that_miss_pixels_are_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(UserError, match=text):
        SegmentationConfig.read(settings, what="segmentation")


def test_an_exported_file_is_looked_at_by_the_same_windows(tmp_path: Path) -> None:
    from understudy.models.export import Subject, write
    from understudy.models.export.onnx import Onnx

    look, picture = network().eval(), torch.rand(1, 3, 20, 28)
    told = {"segmentation": '{"window": 16, "stride": 8, "align_corners": true}'}
    write(Subject(look, 16, told, [], takes_any_size=True), tmp_path / "it.onnx", Onnx())
    opened = open_classifier(tmp_path / "it.onnx")
    assert opened.align_corners
    expected = slid_logits(look, picture, window=16, stride=8, align_corners=True)
    assert opened.logits(picture).allclose(expected, atol=1e-5)


@pytest.mark.slow
def test_the_example_makes_the_masks_that_predict_makes(tmp_path: Path) -> None:
    from understudy.models.export import Subject, write
    from understudy.models.export.onnx import Onnx

    look, draws = network().eval(), torch.Generator().manual_seed(0)
    for layer in (look[0], look[2]):  # of more than one mind
        layer.weight.normal_(generator=draws)
        layer.bias.zero_()
    told = {"classes": '["a", "b", "c"]', "shorter_side": "40", "input": "images of any size"}
    file = write(Subject(look, 16, told, [], takes_any_size=True), tmp_path / "it.onnx", Onnx()).file
    pixels = torch.randint(256, (6, 8, 3), dtype=torch.uint8, generator=draws)
    picture = Image.fromarray(pixels.numpy()).resize((120, 80), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "a.png")
    example = Path(__file__).parents[2] / "examples/onnx_masks.py"
    subprocess.run([sys.executable, str(example), str(file), str(tmp_path / "a.png")], check=True)
    (expected,) = us.predict(file, [picture])
    made = torch.from_numpy(np.array(Image.open(tmp_path / "a-mask.png")))
    assert expected.mask is not None
    assert made.shape == expected.mask.shape == (80, 120)
    assert len(made.unique()) > 1
    assert (made == expected.mask).float().mean() > 0.97  # Pillow's own resizing
