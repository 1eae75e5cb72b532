"""Weights of a segmenter or a detector for other classes: a start for whoever is trained on these."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from understudy.models import create_model
from understudy.utils.errors import UserError

SMALL = {"backbone": {"channels": [8, 8, 16, 16], "stem_width": 8}, "width": 8}
NETWORKS: dict[str, dict[str, Any]] = {
    "fpn:resnet10t": {"width": 8},
    "deeplabv3:resnet10t": {"width": 8},
    "torchvision:lraspp_mobilenet_v3_large": {},
    "fasterrcnn:resnet10t": {**SMALL, "head_width": 16},
    "retinanet:resnet10t": SMALL,
    "fcos:resnet10t": {**SMALL, "width": 32},
    "torchvision:ssdlite320_mobilenet_v3_large": {},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_everything_but_the_layers_of_classes_is_taken_from_a_file_for_others(name: str, tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    there = create_model(name, num_classes=5, weights="none", kwargs=NETWORKS[name]).module.state_dict()
    save_file({key: value.contiguous() for key, value in there.items()}, file)
    with pytest.raises(UserError, match="Only the classifier differs: a teacher that is fine-tuned first"):
        create_model(name, num_classes=3, weights=file, kwargs=NETWORKS[name])

    made = create_model(name, num_classes=3, weights=file, kwargs=NETWORKS[name], new_head=True).module
    own = made.state_dict()
    apart = {key for key in there if not (own[key].shape == there[key].shape and torch.equal(own[key], there[key]))}
    assert apart
    assert all(any(key.startswith(f"{path}.") for path in made.class_layers) for key in apart)
    assert {key for key in there if own[key].shape != there[key].shape} <= apart
