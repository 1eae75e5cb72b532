"""A student with two distillation tokens, each of which learns from a teacher of its own."""

from __future__ import annotations

from typing import Any

from helpers.smallest_settings import TEACHERS

__all__ = ["BOTH", "TWO", "VIT"]

VIT = {key: value for key, value in TEACHERS["vit"].items() if key != "allow_weak"}  # the second; the first is TINY's
BOTH = {"distilled": 1, "distilled2": 1}
TWO: dict[str, Any] = {
    "teacher": {"also": {"distilled2": VIT}},
    "student": {
        "model": "timm:deit_tiny_patch16_224",
        "kwargs": {"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2, "tokens": 2},
        "weights": "none",
    },
    "method": {"name": "kd", "temperature": 1, "weight": 1, "on": BOTH},
    "task_weight": 1,
    "rows": [],
    "seeds": [0],
    "update": {"optimizer": "adamw", "lr": 1e-3},
}
