"""Which layer of a network is its classifier: what a pass shows, what timm declares, or the last linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["classifier_name", "classifier_names", "is_candidate"]


def classifier_name(module: nn.Module, *, seen: Mapping[str, Any] | None = None, logits: Any = None) -> str | None:
    """Path of the last layer, the classifier; None where no layer is.

    Of a network that has not been run yet, it is what timm declares, else the last nn.Linear in definition order. Once
    it has been run, it is the layer whose output the logits are: the same tensor (seen through a reshape, too), else
    equal values, else, as behind a temperature or a softmax, values that rank the classes of each row alike. Where no
    layer's output is, as where two heads are averaged, only what timm declares is believed.

    Args:
        module: any network.
        seen: outputs of a pass by path, of all that `is_candidate`, in the order of their calls.
        logits: (B,C) what the pass gave; anything else cannot be looked into.
    """
    declared = _declared(module)
    if seen is None or not isinstance(logits, Tensor) or logits.ndim != 2:
        return declared or _last_linear(module)
    alike = {path: output for path, output in seen.items() if isinstance(output, Tensor) and _fits(output, logits)}
    for is_the_one in (_is_same_memory, _is_equal, _ranks_alike):
        found = [path for path, output in alike.items() if is_the_one(output, logits)]
        if found:
            return declared if declared in found else found[-1]
    # A layer inside a compiled or scripted part is called without its hooks: nothing is known against it then.
    return declared if declared or seen else _last_linear(module)


def classifier_names(module: nn.Module) -> tuple[str, ...]:
    """Paths of the last layer, or layers, of a network that has not been run: a distilled transformer declares two.

    A network with heads of its own says with `class_layers` which of its layers depend on the number of classes.
    """
    own = getattr(module, "class_layers", None)
    if isinstance(own, tuple) and own:
        return own
    declared = getattr(module, "default_cfg", None) or {}
    names = declared.get("classifier") if isinstance(declared, Mapping) else None
    if isinstance(names, tuple | list):
        there = dict(module.named_modules())
        return tuple(name for name in names if isinstance(name, str) and name in there)
    name = classifier_name(module)
    return () if name is None else (name,)


def is_candidate(layer: nn.Module) -> bool:
    """Whether it may be a classifier: a linear layer, or the convolution of 1x1 that does the same."""
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear)


def _declared(module: nn.Module) -> str | None:
    config = getattr(module, "default_cfg", None) or getattr(module, "pretrained_cfg", None)
    name = config.get("classifier") if isinstance(config, Mapping) else None
    if isinstance(name, tuple | list):
        name = name[0]
    if not isinstance(name, str) or not name:
        return None
    try:
        layer = module.get_submodule(name)
    except AttributeError:
        return None
    return name if isinstance(layer, nn.Linear | nn.Conv2d) else None


def _last_linear(module: nn.Module) -> str | None:
    linear = [path for path, child in module.named_modules() if isinstance(child, nn.Linear)]
    return linear[-1] if linear else None


def _fits(output: Tensor, logits: Tensor) -> bool:
    return output.numel() == logits.numel() and output.shape[:1] == logits.shape[:1]


def _is_same_memory(output: Tensor, logits: Tensor) -> bool:
    return output.data_ptr() == logits.data_ptr()


def _is_equal(output: Tensor, logits: Tensor) -> bool:
    return bool((output.reshape(logits.shape) == logits).all())


def _ranks_alike(output: Tensor, logits: Tensor) -> bool:
    ranks, wanted = output.reshape(logits.shape).argsort(dim=1, stable=True), logits.argsort(dim=1, stable=True)
    return bool((ranks == wanted).all()) and bool((logits.amin(1) < logits.amax(1)).all())
