"""What a network's own classes are called, where it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torchvision
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

from understudy.models.hugging_face import hf_class_names
from understudy.models.names import split_name
from understudy.models.weight_files import weights_file
from understudy.models.weights import read_config
from understudy.utils.errors import UserError

__all__ = ["class_names", "names_in_config"]

Names = list[tuple[str, ...]]  # of each class, all that it is called


def class_names(model: str, weights: str | None) -> Names | None:
    """Names of the classes that a model with these weights tells apart, in order; None where they are not known.

    Args:
        model: as `create_model` takes it.
        weights: None or "pretrained": those that were published; a model folder or a run's has names in its config.

    Raises:
        UserError: a folder's config.json that cannot be read, or no such model.
    """
    if weights == "none" or ":" not in model:  # the latter was handed over in Python
        return None
    source, name = split_name(model)
    if weights not in (None, "pretrained"):
        file = weights_file(weights)
        return names_in_config(read_config(file.parent))
    if source == "torchvision":
        categories: Sequence[str] = torchvision.models.get_model_weights(name).DEFAULT.meta["categories"]
        return [(name,) for name in categories]
    if source == "timm":
        return _of_imagenet(name)
    if source == "hf":
        return names_in_config(read_config(Path(name))) if Path(name).is_dir() else [(n,) for n in hf_class_names(name)]
    return None


def names_in_config(config: Mapping[str, Any]) -> Names | None:
    """Those of timm's config.json, or of transformers'; None where it has none."""
    stated = config.get("label_names") or (config.get("pretrained_cfg") or {}).get("label_names")
    numbered = config.get("id2label")
    if stated is None and isinstance(numbered, Mapping):
        try:
            by_number = {int(number): name for number, name in numbered.items()}
        except ValueError:
            raise UserError("config.json: id2label must name each class by its number") from None
        stated = [by_number.get(i) for i in range(len(by_number))]
    if not isinstance(stated, list) or not all(isinstance(name, str) for name in stated):
        return None
    return [(name,) for name in stated]


def _of_imagenet(name: str) -> Names | None:
    """WordNet's numbers and words for a network of timm's that was trained on ImageNet."""
    config = timm.get_pretrained_cfg(name)
    subset = infer_imagenet_subset(config) if config is not None else None
    if not subset:
        return None
    info: Any = ImageNetInfo(subset)
    described: list[str] = [info.index_to_description(i) for i in range(info.num_classes())]
    numbers: list[str] = info.label_names()
    return [
        (number, text, *(word.strip() for word in text.split(",")))
        for number, text in zip(numbers, described, strict=True)
    ]
