"""The guide to detection runs as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.utils import save_image

from helpers.drawn_shapes import SIDE, drawn_batches

GUIDE = Path(__file__).parents[2] / "docs" / "detection.md"


@pytest.mark.slow
def test_the_python_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    for number, split in enumerate(("train", "val")):
        folder = tmp_path / "boxes" / "images" / split
        folder.mkdir(parents=True)
        images, annotations = [], []
        (batch,) = drawn_batches(1, 4, seed=number)
        for place, (image, boxes) in enumerate(zip(batch.images, batch.targets.each(), strict=True)):
            save_image(image, folder / f"{place}.png")
            images.append({"id": place, "file_name": f"{place}.png", "height": SIDE, "width": SIDE})
            for (x1, y1, x2, y2), label in zip(boxes.boxes.tolist(), boxes.labels.tolist(), strict=True):
                annotations.append({"image_id": place, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        categories = [{"id": label, "name": name} for label, name in enumerate(("square", "disc", "triangle"))]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "boxes" / "annotations").mkdir(exist_ok=True)
        (tmp_path / "boxes" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    block, of_another_package = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    reader: dict[str, Any] = {}
    assert "from ultralytics import YOLO" in of_another_package  # which is not installed here
    exec(compile(block, "detection.md", "exec"), reader)
    (epochs,) = reader["history"].values()
    assert epochs[0]["val"].keys() >= {"ap", "ap50"}
