"""Small networks of Hugging Face's transformers in folders, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

VIT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


def write_vit(folder: Path) -> Path:
    """A vision transformer for 7 classes and 16x16 images."""
    write_network(folder, "ViT", VIT)
    write_processor(folder, size={"height": 16, "width": 16}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])
    return folder


def write_resnet(folder: Path) -> Path:
    """A residual network for 7 classes and any image size; its processor gives images of 24 pixels."""
    write_network(folder, "ResNet", RESNET)
    write_processor(folder, "ConvNextImageProcessor", size={"shortest_edge": 24}, crop_pct=0.875)
    return folder


def write_network(folder: Path, family: str, settings: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**settings, num_labels=7)
    getattr(transformers, f"{family}ForImageClassification")(config).save_pretrained(folder)


def write_processor(folder: Path, kind: str = "ViTImageProcessor", **settings: Any) -> None:
    text = json.dumps({"image_processor_type": kind, **settings})
    (folder / "preprocessor_config.json").write_text(text)
