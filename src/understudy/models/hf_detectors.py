"""What is particular to detectors among Hugging Face's networks: their class, and the columns of published weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from understudy.models.detectors.query import QueryDetector

__all__ = ["found_by_queries", "is_detector", "processor_of", "with_published_columns", "without_heads"]

_HEADS = ("class_embed", "score_head")  # within the network, as RT-DETR and D-FINE name them
_NO_CLASS = ("N/A", "__background__")


def is_detector(config: Any) -> bool:
    """Whether the network that is meant finds boxes, by the name of its class."""
    return any(str(name).endswith("ForObjectDetection") for name in config.architectures or ())


def found_by_queries(made: Any, columns: Sequence[int] | None) -> nn.Module:
    """A detector of transformers' as a task asks it; `columns` of its logits are the classes, None: all are."""
    return QueryDetector(made, made.config.num_labels if columns is None else len(columns), columns=columns).train()


def processor_of(module: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None) -> dict[str, Any] | None:
    """The settings of the image processor that prepares a detector's images as they come; None of other networks."""
    if not isinstance(module, QueryDetector):
        return None
    return {
        "image_processor_type": "DetrImageProcessor" if module.has_background else "RTDetrImageProcessor",
        "do_resize": False,
        "do_pad": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": mean is not None,
        "image_mean": mean,
        "image_std": std,
    }


def without_heads(keys: Sequence[str]) -> list[str]:
    """Names of weights that do not depend on the number of classes."""
    return [key for key in keys if not any(part in key for part in _HEADS)]


def with_published_columns(library: Any, place: str, config: Any) -> tuple[Any, list[int] | None]:
    """The configuration for published weights, and which of its columns are the data's classes; None: all are.

    DETR's weights for COCO have 91 columns, of which eleven belong to no class.
    """
    config = copy.deepcopy(config)
    if not is_detector(config):
        return config, None
    names = library.AutoConfig.from_pretrained(place, trust_remote_code=False).id2label
    columns = [int(number) for number in sorted(names) if str(names[number]) not in _NO_CLASS]
    if len(columns) != config.num_labels or columns == list(range(len(columns))):
        return config, None
    config.num_labels = len(names)
    return config, columns
