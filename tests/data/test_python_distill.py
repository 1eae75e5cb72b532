"""`us.distill` on data sets as people have them: grey, of many bands, with a damaged first image, augmented."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import understudy as us


def network(channels: int, width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, width, 3, padding=1)
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 2))


@pytest.mark.parametrize("channels", [1, 5])
def test_networks_of_any_number_of_channels_are_distilled_counted_and_read_again(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = TensorDataset(torch.rand(16, channels, 8, 8), torch.arange(16) % 2)
    settings: dict[str, Any] = {"epochs": 1, "augment": "crop_flip", "allow_weak_teacher": True, "quiet": True}
    result = us.distill(network(channels, 6), network(channels), train=data, val=data, out="run", **settings)
    (row,) = json.loads((result.run.path / "results.json").read_text())["rows"]
    assert row["student"]["macs"] == 8 * 8 * 9 * 4 * channels + 16 * 2
    assert json.loads((result.run.student / "config.json").read_text())["understudy"]["channels"] == channels
    again = us.load_student("run", module=network(channels))
    images = torch.rand(3, channels, 8, 8)
    assert torch.equal(again(images), result.student(images))


@pytest.mark.parametrize("is_cached", [True, False])
def test_a_damaged_first_image_is_left_out_like_any_other(
    is_cached: bool, write_tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = write_tree({"cat": 8, "dog": 8})
    (root / "cat/0.jpg").write_bytes(b"no image")
    as_float: Any = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    train = ImageFolder(root, None if is_cached else as_float)
    settings: dict[str, Any] = {"epochs": 1, "quiet": True, "settings": {"data": {"workers": 0}}}
    us.distill(None, network(3), train=train, method="none", **settings)
    assert "0.jpg: cannot identify image file" in Path("runs/distill-1/results.json").read_text()
    settings["settings"]["data"]["on_bad_image"] = "stop"
    with pytest.raises(us.UserError, match=r"1 image cannot be read: .*0\.jpg: cannot identify"):
        us.distill(None, network(3), train=train, method="none", **settings)


def test_columns_are_named_by_the_settings_that_a_refusal_asks_for(tmp_path: Path) -> None:
    samples = [{"x": torch.rand(3, 8, 8), "fine_label": i % 2, "coarse_label": 0} for i in range(16)]

    def distilled(**settings: Any) -> us.Result:
        return us.distill(
            None,
            network(3),
            train=samples,
            method="none",
            epochs=1,
            out=tmp_path / "run",
            quiet=True,
            settings={"data": {"workers": 0, **settings}},
        )

    with pytest.raises(us.UserError, match=r"settings=\{'data': \{'label_column': NAME\}\}"):
        distilled()
    assert distilled(label_column="fine_label").results.data.num_classes == 2
