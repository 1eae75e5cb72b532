"""The one door to the package `ultralytics`, where a user has installed it: it is AGPL-3.0, so nothing of it is here.

What is called is what its documentation offers: a network by its configuration, its loss of a batch, its suppression.
Tried with 8.3.200 and 8.4.190.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from understudy.models.hub import first_line
from understudy.utils.errors import UserError, shortened_repr

__all__ = [
    "GAINS",
    "class_logits",
    "config_named",
    "criterion_of",
    "is_of_package",
    "network_in",
    "network_of",
    "refuse_code_in",
    "suppressed",
]

PACKAGE = "ultralytics"
GAINS = ("box", "cls", "dfl")  # of the parts of its loss
ABSENT = (
    "ultralytics: names need the package of that name, which is not installed. It is under the AGPL-3.0, so that "
    "understudy never installs it: whether to `pip install ultralytics`, and what that licence asks of your work, is "
    "yours to decide. The permissive road is RT-DETR or D-FINE (hf:PekingU/rtdetr_r18vd; pip install "
    "'understudy[hf]'), or fcos:BACKBONE and retinanet:BACKBONE (docs/detection.md)"
)
_MODULE = r"(torch\.)?nn\.\w+\([\w\s.,=]*\)"  # an activation, the one string that the package evaluates
_PATCHED = ((torch, "save"), (torch, "load"), (Image, "open"))  # which the package puts its own in the place of


def is_of_package(network: nn.Module) -> bool:
    """Whether a network was built by it, without importing it."""
    return any(kind.__module__.partition(".")[0] == PACKAGE for kind in type(network).__mro__)


def config_named(name: str) -> dict[str, Any]:
    """The configuration that the package has for 'yolov5m', or that stands in a file, 'FOLDER/mine.yaml'.

    Raises:
        UserError: the package is not there, there is no such configuration, or one that would run code.
    """
    file = name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"
    try:
        found: dict[str, Any] = _part("nn.tasks").yaml_model_load(file)
    except UserError:
        raise
    except Exception as error:  # a file of any content, or none
        raise UserError(
            f"ultralytics has no model {name!r} ({first_line(error)}); names are as in its documentation: yolov5m, "
            "yolov8n, yolo11s"
        ) from error
    refuse_code_in(found, name)
    return found


def refuse_code_in(config: Any, name: str) -> None:
    """Refuse a configuration with a string that the package might evaluate: configurations come from anywhere.

    Raises:
        UserError: naming the string.
    """
    if isinstance(config, Mapping):
        for key, value in config.items():
            is_activation = key == "activation" and isinstance(value, str) and re.fullmatch(_MODULE, value)
            if not is_activation:
                refuse_code_in(value, name)
    elif isinstance(config, list | tuple):
        for value in config:
            refuse_code_in(value, name)
    elif isinstance(config, str) and not re.fullmatch(r"[\w.,/\\:+ -]*", config):
        raise UserError(
            f"ultralytics:{name}: its configuration says {shortened_repr(config)}, which might run code; names, "
            "numbers and activations such as nn.ReLU() are what may stand there"
        )


def network_of(config: Mapping[str, Any], num_classes: int, gains: Mapping[str, float]) -> nn.Module:
    """The package's network of a configuration, with random weights; `gains` weigh the parts of its loss.

    Of two heads (yolo26), it has the one of many boxes for an object alone, which suppression goes with.
    """
    told = {"nc": num_classes} | ({"end2end": False} if config.get("end2end") else {})
    with _kept_to_itself():
        network: nn.Module = _part("nn.tasks").DetectionModel({**config, **told}, ch=3, verbose=False)
        network.args = _part("cfg").get_cfg(overrides=dict(gains))
    return network


def criterion_of(network: nn.Module) -> Any:
    """The package's loss of a network; one without settings, or with a mapping of them, stays as it is."""
    before: Any = getattr(network, "args", None)
    if before is not None and not isinstance(before, Mapping):
        return network.init_criterion()  # type: ignore[operator]
    given = before or {}
    network.args = _part("cfg").get_cfg(overrides={name: given[name] for name in GAINS if name in given})
    try:
        return network.init_criterion()  # type: ignore[operator]
    finally:
        network.args = before  # type: ignore[assignment]


def network_in(file: str | Path) -> nn.Module:
    """The network in a checkpoint of the package, which is a pickle and may run code; a published name is fetched."""
    with _kept_to_itself():
        found: nn.Module = _part("").YOLO(str(file)).model
    return found


def class_logits(predictions: Any, num_columns: int) -> Tensor:
    """(B,K,A) of what a head says in training: by name, or as maps of which the last K channels are the classes."""
    if isinstance(predictions, Mapping):
        if isinstance(scores := predictions.get("scores"), Tensor):
            return scores
    elif isinstance(predictions, list | tuple) and all(isinstance(one, Tensor) for one in predictions):
        return torch.cat([one[:, -num_columns:].flatten(2) for one in predictions], dim=2)
    raise UserError(
        "this version of ultralytics gives predictions of a form that is not known here (8.3.200 and 8.4.190 were "
        "tried); install one of those, or open an issue"
    )


def suppressed(decoded: Tensor, *, min_score: float, overlap: float, most: int) -> list[Tensor]:
    """By image, (D,6) corners, score and class of (B,4+C,A) boxes, by the package's non-maximum suppression."""
    try:
        home = _part("utils.nms")
    except UserError:  # where older versions have it
        home = _part("utils.ops")
    found: list[Tensor] = home.non_max_suppression(
        decoded,
        conf_thres=min_score,
        iou_thres=overlap,
        multi_label=True,
        max_det=most,
        max_time_img=1e6,  # seconds; by default it stops after some, so that what is found depends on the machine
    )
    return found


def _part(path: str) -> Any:
    """A module of the package; by name, so that the type checker does not read it."""
    name = f"{PACKAGE}.{path}" if path else PACKAGE
    try:
        with _kept_to_itself():
            importlib.import_module(PACKAGE)  # first, so that its absence is told from that of a part
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == PACKAGE:
            raise UserError(ABSENT) from None
        raise UserError(
            f"the package ultralytics is there, but {name} cannot be imported ({first_line(error)}); 8.3.200 and "
            "8.4.190 were tried"
        ) from error
    except ImportError as error:
        raise UserError(f"the package ultralytics cannot be imported: {first_line(error)}") from error


@contextmanager
def _kept_to_itself() -> Iterator[None]:
    """Inside, the package installs nothing and says little; what it changes of others is put back."""
    environment, printing = dict(os.environ), np.get_printoptions()
    own = [getattr(home, name) for home, name in _PATCHED]
    for name in ("YOLO_AUTOINSTALL", "YOLO_VERBOSE"):
        os.environ.setdefault(name, "false")
    try:
        yield
    finally:
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        np.set_printoptions(**printing)
        for (home, name), function in zip(_PATCHED, own, strict=True):
            setattr(home, name, function)
