"""TappedModel: named features of any nn.Module, returned from forward.

Hooks are placed when the model is built, before anything is compiled: a hook that is added after the first
compiled call is silently ignored.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from understudy.config import UserError, nearest

__all__ = ["TapShape", "TappedModel", "Taps", "check_taps", "classifier_name"]


@dataclass(frozen=True, slots=True)
class Taps:
    """What a method looks at on either side.

    Names: "embedding" (the classifier's input), "stages" and "preact_stages" (all of them; they arrive as
    "stages.0", "stages.1", ...), or "module.path" for a module's output and "module.path:input" for its input.
    """

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TapShape:
    """Size of one tapped feature without its batch axis: a vector (D,) or a map (D,H,W)."""

    channels: int
    height: int | None = None
    width: int | None = None

    def __str__(self) -> str:
        return "x".join(str(side) for side in (self.channels, self.height, self.width) if side is not None)


class TappedModel(nn.Module):
    """A model whose forward returns (output, features).

    Maps arrive as (B,D,H,W) whatever the model's own layout (NHWC, tokens); vectors as (B,D).

    Args:
        module: any network.
        prepare: the network's own first operation on images in [0,1] (normalisation, resizing); None: nothing.
        taps: names as in `Taps`; "stages" is expanded through timm's feature_info.
        name: what error messages call the model.

    Raises:
        UserError: a name that the model does not have, with the nearest one and the list.
    """

    def __init__(
        self, module: nn.Module, taps: Iterable[str] = (), *, prepare: nn.Module | None = None, name: str = "the model"
    ) -> None:
        super().__init__()
        self.module = module
        self.prepare = nn.Identity() if prepare is None else prepare
        self.model_name = name
        self.taps: tuple[str, ...] = tuple(dict.fromkeys(_expanded(module, taps, name)))
        self._caught: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        if self.taps:
            for child in module.modules():
                # An in-place activation behind a tap would overwrite what the tap holds.
                if getattr(child, "inplace", False) is True:
                    child.inplace = False  # type: ignore[assignment]
        for tap in self.taps:
            self._place(tap)

    def forward(self, images: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """The model's output on (B,3,H,W) images, and its tapped features by name."""
        self._caught = {}
        output = self.module(self.prepare(images))
        caught, self._caught = self._caught, {}
        missing = [tap for tap in self.taps if tap not in caught]
        if missing:
            raise UserError(
                f"nothing was tapped at {missing[0]!r}: {self.model_name} has that module, but its forward pass "
                f"does not call it; it offers: {_listed(tap_names(self.module))}"
            )
        return output, {tap: self._as_feature(tap, caught[tap]) for tap in self.taps}

    def norms(self) -> dict[str, nn.BatchNorm2d]:
        """Frozen copies of the batch norms behind the tapped pre-activations, where feature_info names them."""
        found = {}
        for tap in self.taps:
            group, _, number = tap.partition(".")
            paths = _stage_paths(self.module, "norms") if group == "preact_stages" else []
            norm = self.module.get_submodule(paths[int(number)]) if number.isdigit() and paths else None
            if isinstance(norm, nn.BatchNorm2d):
                found[tap] = copy.deepcopy(norm).eval().requires_grad_(False)
        return found

    def untapped(self) -> nn.Module:
        """The plain network, its hooks taken away."""
        for handle in self._handles:
            handle.remove()
        return self.module

    def dry_forward(self, sample: Tensor) -> tuple[Any, dict[str, TapShape]]:
        """Output and tap shapes on `sample` (B,3,H,W), without gradient; nothing of the model changes."""
        with _left_as_it_was(self):
            try:
                output, features = self(sample)
            except RuntimeError as error:
                raise UserError(
                    f"{self.model_name} cannot take images of shape {tuple(sample.shape)}: {str(error).splitlines()[0]}"
                ) from error
        return output, {tap: TapShape(*feature.shape[1:]) for tap, feature in features.items()}

    def _as_feature(self, tap: str, caught: Any) -> Tensor:
        """(B,D,H,W) or (B,D) from whatever layout the model has."""
        if not isinstance(caught, Tensor):
            raise UserError(
                f"what {self.model_name} holds at {tap!r} is a {type(caught).__name__}, not a tensor; "
                "tap a module inside it"
            )
        path, _, side = _resolved(self.module, tap).partition(":")
        is_convolution = not side and isinstance(self.module.get_submodule(path), nn.Conv2d)
        return _as_map(caught, self.module, is_channels_first=is_convolution)

    def _place(self, tap: str) -> None:
        path, _, side = _resolved(self.module, tap).partition(":")
        target = self.module.get_submodule(path)

        def catch_output(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self._caught[tap] = output[0] if isinstance(output, tuple) else output

        def catch_input(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._caught[tap] = inputs[0]

        if side == "input":
            self._handles.append(target.register_forward_pre_hook(catch_input))
        else:
            self._handles.append(target.register_forward_hook(catch_output))


def check_taps(module: nn.Module, taps: Iterable[str], *, name: str) -> None:
    """Raise the UserError that tapping would, and change nothing."""
    for _ in _expanded(module, taps, name):
        pass


def classifier_name(module: nn.Module) -> str | None:
    """Path of the last layer, the classifier: what timm declares, else the last nn.Linear in definition order."""
    declared = getattr(module, "default_cfg", None) or getattr(module, "pretrained_cfg", None)
    name = declared.get("classifier") if isinstance(declared, Mapping) else None
    if isinstance(name, tuple | list):
        name = name[0]
    if isinstance(name, str) and isinstance(_submodule(module, name), nn.Linear | nn.Conv2d):
        return name
    linear = [path for path, child in module.named_modules() if isinstance(child, nn.Linear)]
    return linear[-1] if linear else None


def tap_names(module: nn.Module) -> list[str]:
    """Everything that can be tapped by name, the short names first."""
    short = ["embedding"] if classifier_name(module) else []
    for group in ("stages", "preact_stages"):
        short += [f"{group}.{i}" for i in range(len(_stage_paths(module, group)))]
    return short + [path for path, _ in module.named_modules() if path]


def _expanded(module: nn.Module, taps: Iterable[str], name: str) -> Iterator[str]:
    for tap in taps:
        if tap in ("stages", "preact_stages"):
            paths = _stage_paths(module, tap)
            if not paths:
                raise UserError(
                    f"{name} does not say where its {tap} are (timm's feature_info); "
                    f"name modules instead: {_listed(tap_names(module))}"
                )
            yield from (f"{tap}.{i}" for i in range(len(paths)))
        else:
            path, _, side = _resolved(module, tap).partition(":")
            if side not in ("", "input"):
                raise UserError(f"{name}: a tap is a module's output, 'path', or its input, 'path:input'; got {tap!r}")
            if _submodule(module, path) is None:
                known = tap_names(module)
                close = nearest(path, known)
                hint = f"did you mean {close}? " if close else ""
                raise UserError(f"{name} has nothing to tap at {tap!r}; {hint}it offers: {_listed(known)}")
            yield tap


def _resolved(module: nn.Module, tap: str) -> str:
    """The module path (with ':input' where that side is meant) behind a short name."""
    if tap == "embedding":
        name = classifier_name(module)
        return f"{name}:input" if name else tap
    group, _, number = tap.partition(".")
    if group in ("stages", "preact_stages") and number.isdigit():
        paths = _stage_paths(module, group)
        if int(number) < len(paths):
            return paths[int(number)]
    return tap


def _stage_paths(module: nn.Module, group: str) -> list[str]:
    info = getattr(module, "feature_info", None)
    if info is None:
        return []
    rows = info if isinstance(info, list) else list(getattr(info, "info", []))
    key = {"stages": "module", "preact_stages": "preact", "norms": "norm"}[group]
    return [row[key] for row in rows if row.get(key)]


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path) if path else None
    except AttributeError:
        return None


def _as_map(feature: Tensor, module: nn.Module, *, is_channels_first: bool) -> Tensor:
    if feature.ndim == 3:  # tokens (B,N,D): drop class and register tokens, unfold the square grid
        num_prefix = getattr(module, "num_prefix_tokens", None)
        if not isinstance(num_prefix, int):
            num_prefix = feature.shape[1] - math.isqrt(feature.shape[1]) ** 2
        side = math.isqrt(feature.shape[1] - num_prefix)
        tokens = feature[:, num_prefix:].transpose(1, 2)  # (B,D,side*side)
        return tokens.reshape(*tokens.shape[:2], side, side)
    if feature.ndim == 4:
        if getattr(module, "output_fmt", "NCHW") == "NHWC" and not is_channels_first:
            return feature.permute(0, 3, 1, 2)
        if feature.shape[2:] == (1, 1):
            return feature.flatten(1)
    return feature


@contextmanager
def _left_as_it_was(module: nn.Module) -> Iterator[None]:
    """Run without gradient and restore modes, buffers and the random state afterwards."""
    modes = {child: child.training for child in module.modules()}
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    module.train(False)
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode
        for name, value in module.named_buffers():
            value.copy_(buffers[name])


def _listed(names: list[str], most: int = 24) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
