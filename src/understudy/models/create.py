"""create_model: a network by name, with its weights, its normalisation and its input size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn

from understudy.core.image_size import ImageSize, checked_size, size_text
from understudy.models.blueprint import SIZE_KEYS, Blueprint
from understudy.models.hub import WeightsUnavailableError
from understudy.models.libraries import SOURCES, own_blueprint
from understudy.models.names import NAMED_FORMS, may_run_code, split_name
from understudy.models.network import Network, Prepare
from understudy.models.weight_files import split_weights
from understudy.models.weight_sizes import size_of_weights
from understudy.models.weights import MisfitError, folder_normalisation, load_weights
from understudy.utils.errors import UserError

__all__ = ["create_model"]

_LOADING = frozenset(
    [
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
        "weights",
        "weights_backbone",
    ]
)


def create_model(
    name: str,
    *,
    num_classes: int,
    weights: str | Path | None = None,
    image_size: ImageSize | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    new_head: bool = False,
    allow_code: bool = True,
    kwargs: Mapping[str, Any] | None = None,
    size_setting: str = "image_size",
    weights_setting: str = "weights",
) -> Network:
    """A network by name.

    Random weights are drawn from torch's global generator; an attempt at pretrained ones that fails draws nothing.

    Args:
        name: timm:NAME, torchvision:NAME, cifar:NAME, understudy:NAME, hf:NAME (of the Hugging Face hub) or
            hf:FOLDER, ultralytics:NAME where that package is installed; FILE.py:Class or module.path:factory from the
            user's own code.
        num_classes: C.
        weights: "pretrained", "none", a file (.safetensors, .pt, .pth), a timm model folder or a run's folder;
            "FILE#KEY" for one of several sets of tensors in a file (see `load_weights`).
            None: pretrained where they can be had, else random; `starts_from` says which, and why.
        image_size: that the network works at, pixels a side or (height, width): images are resized to it, and a
            network of fixed size is built for it. None: images as they come, or at a fixed network's own size.
        mean: the data's, per channel, in [0,1] units; for cifar networks and the user's own. Those of timm and
            torchvision have theirs, those of hf what their image processor says, and what a model folder says goes
            before all of them.
        std: the data's, likewise.
        new_head: a file for another number of classes gives everything but the classifier.
        allow_code: False refuses FILE.py:Class, module.path:factory, and files of ultralytics, which are pickles.
        kwargs: further arguments of the network's constructor; for hf: settings of its configuration, and with a
            model_type among them the whole of it, which then is not looked for on the hub. A size in them (img_size)
            is what the network is built for; another `image_size` beside it is refused.
        size_setting: what messages call `image_size`.
        weights_setting: what messages call `weights`.

    Raises:
        UserError: no such model, weights that cannot be had or do not fit, code that is not allowed or fails.
    """
    image_size = None if image_size is None else checked_size(image_size, what=size_setting)
    blueprint = _blueprint(name, num_classes, image_size, kwargs or {}, allow_code=allow_code)
    try:
        module, starts_from = _with_weights(
            name, blueprint, weights, new_head=new_head, weights_setting=weights_setting
        )
    except MisfitError as error:
        size = blueprint.resize_to and size_of_weights(
            error.reading,
            lambda size: _blueprint(name, num_classes, size, _unsized(kwargs), allow_code=allow_code).build(),
            size=blueprint.resize_to,
            preferred=_blueprint(name, num_classes, None, _unsized(kwargs), allow_code=allow_code).prefers,
        )
        if not size or not blueprint.resize_to:
            raise
        raise UserError(
            f"weights {str(weights)!r}: the file is for {size} pixels, and {name} is built for "
            f"{size_text(blueprint.resize_to)}; set {size_setting}={size}"
        ) from None
    normalisation = blueprint.normalisation or (mean, std)
    if _is_path(weights):
        normalisation = folder_normalisation(weights) or normalisation
    return Network(
        name=name,
        module=module,
        prepare=Prepare(*normalisation, size=blueprint.resize_to),
        input_size=image_size or blueprint.prefers,
        num_classes=num_classes,
        starts_from=starts_from,
        kwargs=blueprint.kwargs,
    )


def _blueprint(
    name: str, num_classes: int, image_size: ImageSize | None, kwargs: Mapping[str, Any], *, allow_code: bool
) -> Blueprint:
    if num_classes < 1:
        raise UserError(f"model {name!r}: num_classes must be at least 1, got {num_classes}")
    source, rest = split_name(name)
    if not allow_code and may_run_code(name, kwargs):
        raise UserError(
            f"model {name!r} would run code from {rest if source in SOURCES else source}; allow that (allow_code, "
            f"--allow-code), or name a model: {NAMED_FORMS}"
        )
    if source in SOURCES:
        _refuse_loading(name, kwargs)
        return SOURCES[source](rest, num_classes, image_size, kwargs)
    return own_blueprint(source, rest, num_classes, image_size, kwargs)


def _unsized(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (kwargs or {}).items() if key not in SIZE_KEYS}


def _refuse_loading(name: str, kwargs: Mapping[str, Any]) -> None:
    """Arguments by which a library would read, fetch or write files: weights have a key of their own."""
    found = sorted(set(kwargs) & _LOADING)
    if found:
        raise UserError(f"{name}: kwargs may not hold {', '.join(found)}; weights: pretrained, none or FILE says that")


def _with_weights(
    name: str, blueprint: Blueprint, weights: str | Path | None, *, new_head: bool, weights_setting: str
) -> tuple[nn.Module, str]:
    """The network and where its weights come from, in words."""
    if _is_path(weights):
        module = blueprint.build()
        said = load_weights(module, weights, name=name, new_head=new_head)
        file = Path(split_weights(weights)[0])
        from_where = str(file) if file.expanduser().is_dir() else file.name
        return module, f"{from_where} ({said})" if said else from_where
    if weights == "none" or (weights is None and blueprint.pretrained is None):
        return blueprint.build(), "random weights"
    random_state = torch.random.get_rng_state()
    try:
        return _pretrained(blueprint), "pretrained weights"
    except WeightsUnavailableError as reason:
        if weights == "pretrained":
            raise UserError(
                f"{name}: pretrained weights cannot be had: {str(reason).rstrip('.')}. Set {weights_setting}=FILE, or "
                f"{weights_setting}=none for random ones"
            ) from None
        torch.random.set_rng_state(random_state)
        return blueprint.build(), f"random weights (no pretrained ones could be had: {reason})"


def _pretrained(blueprint: Blueprint) -> nn.Module:
    if blueprint.pretrained is None:
        raise WeightsUnavailableError("none were published")
    return blueprint.pretrained()


def _is_path(weights: str | Path | None) -> TypeGuard[str | Path]:
    return weights not in (None, "pretrained", "none")
